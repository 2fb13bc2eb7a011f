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
    """Delete restore points, in any order: the others stay whole. 'puller prune' then frees the space.

    POINT is an id, a unique prefix of one, DOMAIN@latest, or DOMAIN@TIME (the newest at or before TIME).
    All are looked up before any is deleted.
    """
    repository = open_repository(settings)
    from puller import api

    removed = api.delete(repository, points, hosts=hosts)
    return Outcome({"removed": list(removed)}, "\n".join(f"deleted {point}" for point in removed))
