"""``puller restore --in-place``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from puller.cli.input.access import open_repository
from puller.cli.output.outcome import Outcome
from puller.cli.output.reporting.measures import RESTORE
from puller.cli.output.reporting.progress import observing
from puller.cli.output.results.restored import (
    disk_document,
    lost_documents,
    lost_failure,
    lost_lines,
    without_ends,
)
from puller.cli.output.settings import Settings
from puller.cli.output.streams.console import printable
from puller.cli.output.times import duration
from puller.units import format_bytes

if TYPE_CHECKING:
    from puller.recovery.disk_rollback import RolledBackDisk
    from puller.recovery.rollback import RolledBack


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
    with observing(settings, RESTORE) as told:
        observer = without_ends(told, settings)
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
    return Outcome(
        _document(result, dry_run, salvage), _text(result, dry_run), lost_failure(result.point, result.damage)
    )


def _document(result: RolledBack, dry_run: bool, salvage: bool) -> dict[str, Any]:
    disks = [disk_document(done) for done in result.disks]
    lost = {"damage": lost_documents(result.damage)} if salvage else {}
    return {"point": result.point, "domain": result.domain, "dry_run": dry_run, "disks": disks, **lost}


def _text(result: RolledBack, dry_run: bool) -> str:
    lines = [_line(done, dry_run) for done in result.disks]
    return "\n".join(map(printable, [*lines, *lost_lines(result.damage)]))


def _line(done: RolledBackDisk, dry_run: bool) -> str:
    changed = format_bytes(done.changed_bytes)
    if dry_run:
        return f"{done.disk}: {done.output} ({changed} to roll back)"
    return f"{done.disk}: {done.output} ({changed} rolled back in {duration(done.seconds)})"
