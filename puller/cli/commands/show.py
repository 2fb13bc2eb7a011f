"""``puller show``."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from puller.cli.input.access import open_repository
from puller.cli.input.options import OF_HOST, Command
from puller.cli.output.outcome import Outcome
from puller.cli.output.records import description, full_record
from puller.cli.output.settings import Settings


@click.command("show", cls=Command)
@click.argument("point")
@OF_HOST
@click.pass_obj
def command(settings: Settings, point: str, hosts: tuple[str, ...]) -> Outcome:
    """Show all details of a restore point.

    POINT is an id, a unique prefix of one, DOMAIN@latest, or DOMAIN@TIME (the newest at or before TIME).
    """
    repository = open_repository(settings)
    found, now = repository.points.select(point, hosts), datetime.now(UTC)
    keep = repository.keeps.holding(now, found.uuid, found.point).get((found.uuid, found.point))
    return Outcome(full_record(found, keep), description(found, now, keep))
