"""``puller diff``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from puller.cli.input.access import open_repository
from puller.cli.input.options import OF_HOST, Command
from puller.cli.output.outcome import Outcome
from puller.cli.output.reporting.measures import RESTORE
from puller.cli.output.reporting.progress import observing
from puller.cli.output.results.tables import table
from puller.cli.output.settings import Settings
from puller.units import format_bytes

if TYPE_CHECKING:
    from puller.recovery.diff import DiskDifference, PointDifference


@click.command("diff", cls=Command)
@click.argument("point")
@click.argument("other", metavar="[POINT|live]", default="live")
@OF_HOST
@click.option(
    "--disk",
    "disks",
    multiple=True,
    metavar="TARGET",
    help="Compare only this disk, such as vda. Can be repeated. Without it, all disks are compared.",
)
@click.pass_obj
def command(
    settings: Settings, point: str, other: str, hosts: tuple[str, ...], disks: tuple[str, ...]
) -> Outcome:
    """Show which ranges of the disks differ between two points.

    POINT is an id, a unique prefix of one, DOMAIN@latest, or DOMAIN@TIME (the newest at or before TIME). In
    place of the second one, 'live' (the default) means the disks of the domain as they are now: it must be
    shut off, and the ranges are those that 'puller restore POINT --in-place' would write. Ranges are in whole
    chunks of 64 KiB. No data is read, except with 'live' where no dirty bitmap shows what changed.
    """
    repository = open_repository(settings)
    from puller import api

    connect = settings.connect or api.DEFAULT_URI
    with observing(settings, RESTORE) as observer:
        found = api.diff(
            repository, point, other, hosts=hosts, disks=disks, connect=connect, observer=observer
        )
    return Outcome(_document(found), _text(found))


def _document(found: PointDifference) -> dict[str, Any]:
    disks = [
        {
            "disk": disk.disk,
            "changed_bytes": disk.changed_bytes,
            "ranges": [list(each) for each in disk.ranges],
        }
        for disk in found.disks
    ]
    return {"from": found.first, "to": found.second, "disks": disks}


def _text(found: PointDifference) -> str:
    rows = [
        [disk.disk, format_bytes(disk.changed_bytes), str(len(disk.ranges)), _span(disk)]
        for disk in found.disks
    ]
    return table(["DISK", "DIFFERS", "RANGES", "FROM - TO"], rows)


def _span(disk: DiskDifference) -> str:
    if not disk.ranges:
        return "-"
    offset, length = disk.ranges[-1]
    return f"{disk.ranges[0][0]} - {offset + length}"
