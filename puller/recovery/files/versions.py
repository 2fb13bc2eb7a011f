"""Versions of a file: the points in which it differs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from puller.errors import DamagedData, FileUnreadable, NoFilesystem, NoSuchDisk, NoSuchFile
from puller.events import Notice, Observer
from puller.recovery.diff import diff_points
from puller.recovery.files.entry import FileEntry
from puller.recovery.files.opening import FilesRequest, opened
from puller.repository.points import Point
from puller.repository.repository import Repository


@dataclass(frozen=True, slots=True)
class FileVersion:
    """The file as ``point`` has it, and all points from ``oldest`` to ``point``; ``size`` in bytes."""

    point: str
    size: int
    mtime: datetime
    oldest: str


def versions(
    repository: Repository, points: Sequence[Point], path: str, request: FilesRequest, observer: Observer
) -> Iterator[FileVersion]:
    """The versions of the file ``path`` in ``points``, newest first; each point is opened at most once.

    A version ends where size, time of modification or type differ, or where there is no such file. A point
    that cannot be looked at says nothing: the observer hears of it, and it ends no version.
    """
    newer: FileEntry | None = None
    held: FileVersion | None = None
    for point, entry in _looks(repository, points, path, request, observer):
        if held is not None and entry is not None and newer is not None and _is_same(entry, newer):
            held = FileVersion(held.point, held.size, held.mtime, point.point)
        else:
            if held is not None:
                yield held
            held = None
            if entry is not None:
                held = FileVersion(point.point, entry.size, entry.mtime, point.point)
        newer = entry
    if held is not None:
        yield held


def _looks(
    repository: Repository, points: Sequence[Point], path: str, request: FilesRequest, observer: Observer
) -> Iterator[tuple[Point, FileEntry | None]]:
    """Each point that can be looked at, newest first, with the entry that it has at ``path``."""
    before: Point | None = None
    entry: FileEntry | None = None
    for point in reversed(points):
        try:
            if before is None or not _has_same_disks(repository, point, before, request.disks):
                entry = _look(repository, point, path, request, observer)
        except (NoSuchDisk, NoFilesystem, FileUnreadable, DamagedData) as error:
            if before is None:  # most likely the request is at fault, and would fail on all
                raise
            observer(Notice(point.point, f"left out: {error.message}"))
            continue
        yield point, entry
        before = point


def _look(
    repository: Repository, point: Point, path: str, request: FilesRequest, observer: Observer
) -> FileEntry | None:
    try:
        with opened(repository, point, request, observer) as files:
            return files.tree.followed(path)
    except NoSuchFile:
        return None


def _has_same_disks(repository: Repository, one: Point, other: Point, disks: tuple[str, ...]) -> bool:
    """Return whether no disk differs, as far as the maps tell."""
    if not disks and {disk.disk for disk in one.disks} != {disk.disk for disk in other.disks}:
        return False
    try:
        found = diff_points(repository, one, other, disks).disks
    except (NoSuchDisk, DamagedData):
        return False
    sizes = [(one.disk(item.disk), other.disk(item.disk)) for item in found]
    return all(item.changed_bytes == 0 for item in found) and all(
        a and b and a.size == b.size for a, b in sizes
    )


def _is_same(one: FileEntry, other: FileEntry) -> bool:
    return (one.size, one.mtime_ns, one.type) == (other.size, other.mtime_ns, other.type)
