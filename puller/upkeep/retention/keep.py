"""Keep and release: a kept point stays even if no rule keeps it (docs/format.md, "Keep")."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime

from puller.errors import NoSuchPoint, StoreDenied, UsageError
from puller.events import Notice, Observer, ignore
from puller.repository.collecting import lease
from puller.repository.records.kept import LONGEST_NOTE, Keep, Name, longest
from puller.repository.repository import Repository


@dataclass(frozen=True, slots=True)
class KeptPoint:
    """State of a point's keep: whether it is kept, until when (None: without end), and why.

    ``released`` says whether ``release`` has ended a keep; False if the point was not kept.
    """

    point: str
    kept: bool
    until: datetime | None = None
    note: str = ""
    released: bool = False


def keep(
    repository: Repository,
    selector: str,
    wanted: Keep,
    hosts: Collection[str] = (),
    observer: Observer = ignore,
) -> KeptPoint:
    """Protect a point from prune and delete. See ``puller.keep``."""
    fresh = Keep(_future(wanted.until), _short(wanted.note))
    point = repository.points.locate(selector, hosts)
    older = [info.key for info in repository.keeps.listed(*point)]
    name = repository.keeps.put(point, fresh)
    if lease.is_taken(repository.store, repository.keys.boxes(), "prune"):
        text = f"a prune is running and may still delete {point[1]}: list the points when it has ended"
        observer(Notice("repository", text))
    if not repository.points.stands(point):
        repository.keeps.delete([name])
        raise NoSuchPoint(f"restore point {point[1]} has just been deleted")
    return _replace(repository, point, older, fresh)


def _replace(repository: Repository, point: Name, older: list[str], fresh: Keep) -> KeptPoint:
    """Delete the earlier keeps. Without permission to delete, the point may stay kept for longer."""
    try:
        repository.keeps.delete(older)
    except StoreDenied:
        now = datetime.now(UTC)
        standing = repository.keeps.holding(now, *point).get(point)
        fresh = longest([fresh, standing or fresh], now) or fresh
    return KeptPoint(point[1], True, fresh.until, fresh.note)


def release(repository: Repository, selector: str, hosts: Collection[str] = ()) -> KeptPoint:
    """Delete all keeps of a point, even unreadable ones. See ``puller.release``."""
    point = repository.points.locate(selector, hosts)
    was_kept = point in repository.keeps.holding(datetime.now(UTC), *point)
    repository.keeps.delete([info.key for info in repository.keeps.listed(*point)])
    return KeptPoint(point[1], False, released=was_kept)


def kept_points(repository: Repository) -> list[KeptPoint]:
    """List the points that are kept now, by id. See ``puller.list_kept``."""
    standing = set(repository.points.names())
    keeps = repository.keeps.holding(datetime.now(UTC))
    found = [
        KeptPoint(name[1], True, keep.until, keep.note) for name, keep in keeps.items() if name in standing
    ]
    return sorted(found, key=lambda kept: kept.point)


def _future(until: datetime | None) -> datetime | None:
    if until is None:
        return None
    moment = until if until.tzinfo else until.replace(tzinfo=UTC)
    if moment.year >= 9999:
        raise UsageError(
            "cannot keep a point until the year 9999", advice="Leave out the time to have no end."
        )
    if moment <= datetime.now(UTC):
        raise UsageError(
            f"cannot keep a point until {moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC, which is in the past",
            advice="Give a later time, or run 'puller release' to end a keep.",
        )
    return moment.astimezone(UTC)


def _short(note: str) -> str:
    if len(note) > LONGEST_NOTE:
        raise UsageError(
            f"the note has {len(note)} characters, but {LONGEST_NOTE} are allowed", advice="Shorten the note."
        )
    try:
        note.encode()
    except UnicodeEncodeError as error:
        raise UsageError("the note is not UTF-8", advice="Write the note in UTF-8.") from error
    return note
