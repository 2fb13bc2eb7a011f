"""``puller repair index``."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from puller.cli.input.access import open_repository
from puller.cli.input.options import Command, Group
from puller.cli.output.console import printable
from puller.cli.output.measures import CHECK
from puller.cli.output.outcome import Outcome
from puller.cli.output.progress import observing
from puller.cli.output.settings import Settings
from puller.errors import DamagedData
from puller.units import format_count

if TYPE_CHECKING:
    from puller.upkeep.repair import RepairReport

command = Group("repair", help="Rebuild the index of the repository.", no_args_is_help=False)


@command.command("index", cls=Command)
@click.pass_obj
def index(settings: Settings) -> Outcome:
    """Rebuild the index from the packs.

    Restores do not need the index. Backups without it store data again that the repository already has. The
    exit code is 0 if every pack could be read, and 13 otherwise.
    """
    repository = open_repository(settings)
    from puller import api

    with observing(settings, CHECK) as observer:
        report = api.repair_index(repository, observer=observer)
    return Outcome(asdict(report), _text(report), _failure(report))


def _text(report: RepairReport) -> str:
    lines = [f"damaged pack, left out: {printable(name)}" for name in report.damaged]
    return "\n".join(
        [*lines, f"packs in the index: {report.packs}, old indexes removed: {report.indexes_removed}"]
    )


def _failure(report: RepairReport) -> DamagedData | None:
    if not report.damaged:
        return None
    return DamagedData(
        f"the index was rebuilt without {format_count(len(report.damaged), 'damaged pack')}",
        advice="Run 'puller check' to see which restore points and disks are damaged.",
    )
