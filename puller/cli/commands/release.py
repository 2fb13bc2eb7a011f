"""``puller release``."""

from __future__ import annotations

import click

from puller.cli.commands.keep import document
from puller.cli.input.access import open_repository
from puller.cli.input.options import OF_HOST, Command
from puller.cli.output.outcome import Outcome
from puller.cli.output.settings import Settings


@click.command("release", cls=Command)
@click.argument("point", metavar="POINT")
@OF_HOST
@click.pass_obj
def command(settings: Settings, point: str, hosts: tuple[str, ...]) -> Outcome:
    """End the protection of a restore point.

    Undo 'puller keep'. From then on, prune and delete can remove the point. If the point is not kept, nothing
    happens.

    POINT is an id, a unique prefix of one, DOMAIN@latest, or DOMAIN@TIME (the newest at or before TIME).
    """
    repository = open_repository(settings)
    from puller import api

    released = api.release(repository, point, hosts=hosts)
    text = f"released {released.point}" if released.released else f"{released.point} was not kept"
    return Outcome(document(released), text)
