"""``puller restore --in-place``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from puller.cli.input.access import open_repository
from puller.cli.output.console import printable
from puller.cli.output.measures import RESTORE
from puller.cli.output.outcome import Outcome
from puller.cli.output.progress import observing
from puller.cli.output.settings import Settings
from puller.cli.output.times import duration
from puller.errors import DamagedData
from puller.units import format_bytes

if TYPE_CHECKING:
    from puller.recovery.rollback import RolledBack, RolledBackDisk


def roll_back(  # noqa: PLR0913, PLR0917 - one parameter for each choice that a user has
    settings: Settings,
    point: str,
    hosts: tuple[str, ...],
    disks: tuple[str, ...],
    compare: bool,
    dry_run: bool,
    salvage: bool,
    *,
    backup_first: bool,
) -> Outcome:
    """Roll back, and say what was written."""
    repository = open_repository(settings)
    from puller import api

    connect = settings.connect or api.DEFAULT_URI
    with observing(settings, RESTORE) as observer:
        result = api.rollback(
            repository,
            point,
            hosts=hosts,
            disks=disks,
            compare=compare,
            dry_run=dry_run,
            salvage=salvage,
            backup_first=backup_first,
            connect=connect,
            observer=observer,
        )
    return Outcome(_document(result, dry_run, salvage), _text(result, dry_run), _failure(result))


def _document(result: RolledBack, dry_run: bool, salvage: bool) -> dict[str, Any]:
    disks = [
        {
            "disk": done.disk,
            "output": done.output,
            "changed_bytes": done.changed_bytes,
            "bytes_written": done.bytes_written,
            "bytes_compared": done.bytes_compared,
            "seconds": round(done.seconds, 3),
        }
        for done in result.disks
    ]
    lost = [
        {"disk": disk, "offset": item.offset, "length": item.length, "message": item.reason}
        for disk, item in result.damage
    ]
    document = {"point": result.point, "domain": result.domain, "dry_run": dry_run, "disks": disks}
    return document | ({"damage": lost} if salvage else {})


def _text(result: RolledBack, dry_run: bool) -> str:
    return "\n".join(printable(_line(done, dry_run)) for done in result.disks)


def _line(done: RolledBackDisk, dry_run: bool) -> str:
    changed = format_bytes(done.changed_bytes)
    if dry_run:
        return f"{done.disk}: {done.output} ({changed} to roll back)"
    return f"{done.disk}: {done.output} ({changed} rolled back in {duration(done.seconds)})"


def _failure(result: RolledBack) -> DamagedData | None:
    if not result.damage:
        return None
    lost = format_bytes(sum(item.length for _, item in result.damage))
    return DamagedData(
        f"lost {lost} of point {result.point}: the disks have zeros in their place",
        advice="Roll back to another point if you can: 'puller check --read-data' shows which are intact.",
    )
