"""``puller delete``."""

from __future__ import annotations

import click

from puller.cli.input.access import open_repository
from puller.cli.input.options import OF_HOST, Command
from puller.cli.output.outcome import Outcome
from puller.cli.output.settings import Settings


@click.command("delete", cls=Command)
@click.argument("points", nargs=-1, required=True, metavar="POINT...")
@OF_HOST
@click.pass_obj
def command(settings: Settings, points: tuple[str, ...], hosts: tuple[str, ...]) -> Outcome:
    """Delete restore points.

    Delete each POINT; all other points stay intact. If a POINT cannot be found, nothing is deleted. Run
    'puller prune' afterwards to free the space.

    POINT is an id, a unique prefix of one, DOMAIN@latest, or DOMAIN@TIME (the newest at or before TIME).
    """
    repository = open_repository(settings)
    from puller import api

    removed = api.delete(repository, points, hosts=hosts)
    return Outcome({"removed": list(removed)}, "\n".join(f"deleted {point}" for point in removed))
