"""What restores and rollbacks say of disks and of data that the point has lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from puller.cli.output.settings import Settings
from puller.cli.output.streams.console import is_heard_by_programs
from puller.cli.output.times import duration
from puller.errors import DamagedData
from puller.events import DiskDone, Event, Observer
from puller.units import format_bytes

if TYPE_CHECKING:
    from puller.recovery.disk_rollback import RolledBackDisk
    from puller.recovery.restore import RestoredDisk
    from puller.repository.reading.damage import Damage

Lost = Sequence[tuple[str, "Damage"]]
"""Damage by disk."""


def without_ends(observer: Observer, settings: Settings) -> Observer:
    """``observer``, but at a terminal not told of disks that are done: the results say the same of each."""
    if settings.json or is_heard_by_programs():
        return observer

    def observe(event: Event) -> None:
        if not isinstance(event, DiskDone):
            observer(event)

    return observe


def disk_document(done: RestoredDisk | RolledBackDisk) -> dict[str, Any]:
    """All that is known of one disk."""
    return {**asdict(done), "seconds": round(done.seconds, 3)}


def disk_line(done: RestoredDisk) -> str:
    """One disk that was written."""
    return (
        f"{done.disk}: {done.output} ({format_bytes(done.bytes_written)} written in {duration(done.seconds)})"
    )


def lost_documents(lost: Lost) -> list[dict[str, Any]]:
    """The member ``damage`` of a document."""
    return [
        {"disk": disk, "offset": item.offset, "length": item.length, "message": item.reason}
        for disk, item in lost
    ]


def lost_lines(lost: Lost) -> list[str]:
    """Each range that is lost."""
    return [
        f"{disk}: lost bytes {item.offset} to {item.offset + item.length - 1}: {item.reason}"
        for disk, item in lost
    ]


def lost_failure(point: str, lost: Lost) -> DamagedData | None:
    """The failure of a salvage that has found damage; None if nothing is lost."""
    if not lost:
        return None
    disks = ", ".join(sorted({disk for disk, _ in lost}))
    size = format_bytes(sum(item.length for _, item in lost))
    return DamagedData(
        f"lost {size} of point {point} (disk {disks}): the output has zeros in their place",
        advice="Restore another point if you can: 'puller check --read-data' shows which points are intact.",
    )
