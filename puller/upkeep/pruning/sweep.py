"""Sweep: permanently delete what prune deleted in a bucket that keeps versions.

In a bucket with Object Lock, a deletion only hides an object below a delete marker. Once it has been hidden
for the grace time and its lock has ended, the version is deleted, and then the marker. puller never asks the
store to bypass a lock. It looks up the locks of packs, maps and points first, so that nothing depends on how
a server refuses.

puller overwrites nothing, and deletes no pack that a point needs. So what is hidden in one of these ways was
hidden by somebody else: it stays, and prune says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from math import floor

from puller.cancelling import CancelScope
from puller.errors import ObjectNotFound, StoreDenied
from puller.repository.format.names import FOLDERS
from puller.repository.keys import key_slots
from puller.store.base import Store
from puller.store.objectlock import History, ObjectVersion, histories
from puller.store.parallel import each

SWEPT = tuple(folder for folder in FOLDERS if folder != key_slots.PREFIX)
"""Directories that prune deletes from. The bucket's owner removes old key slots."""

_LOCKED = frozenset({"packs/", "maps/", "points/", "locking/"})
_LASTING = _LOCKED | {"condemned/", "kept/"}
"""Directories whose objects are hidden only by deletions. A test of the store overwrites an object in
locks/."""

_BATCH = 1000
_REQUESTS = 16


@dataclass(frozen=True, slots=True)
class Waiting:
    """Deleted objects that the store keeps until ``day`` (UTC): their number and bytes."""

    day: date
    objects: int
    bytes: int


@dataclass
class Sweep:
    """``now`` is the store's time. ``beat`` is called regularly.

    ``is_missed`` says whether a key is of a pack that points need and that is not stored.

    ``freed`` are the bytes of the versions that were deleted.
    """

    store: Store
    grace: float
    now: float
    beat: Callable[[], None]
    is_missed: Callable[[str], bool]
    freed: int = 0
    _refused: int = 0
    _foreign: list[str] = field(default_factory=list)
    _waiting: dict[date, tuple[int, int]] = field(default_factory=dict)

    @property
    def waiting(self) -> tuple[Waiting, ...]:
        """The objects that are still kept, by the day on which they can be deleted."""
        return tuple(Waiting(day, *counts) for day, counts in sorted(self._waiting.items()))

    def run(self) -> Iterator[str]:
        """Delete what can be deleted; yield notices for the user. Raises StoreError."""
        try:
            for folder in SWEPT:
                self._sweep_folder(folder)
        except StoreDenied as error:
            yield f"deleted versions stay until a lifecycle rule removes them: {error.message}"
        if self._refused:
            text = f"the store refuses to delete {self._refused} versions that no lock is known to hold"
            yield f"{text}: allow s3:DeleteObjectVersion and s3:GetObjectRetention"
        if self._foreign:
            text = f"{len(self._foreign)} objects were deleted or overwritten, and not by puller"
            yield f"{text}, such as {self._foreign[0]}: run 'puller repair versions' to bring them back"

    def _sweep_folder(self, folder: str) -> None:
        batch: list[History] = []
        for history in histories(self.store.locks, folder):
            self.beat()
            if folder in _LASTING and self._is_foreign(history):
                self._foreign.append(history.key)
            elif history.current is None:
                batch.append(history)
            if len(batch) == _BATCH:
                self._sweep(folder, batch)
                batch = []
        self._sweep(folder, batch)

    def _is_foreign(self, history: History) -> bool:
        """Whether somebody else hid it. A put that was repeated after a lost answer has the same content."""
        return history.was_overwritten or (history.current is None and self.is_missed(history.key))

    def _sweep(self, folder: str, batch: Sequence[History]) -> None:
        hidden = [
            (history, version)
            for history in batch
            for version in history.stored
            if not self._is_young(history, version)
        ]
        held = set[ObjectVersion]()
        if folder in _LOCKED:
            held = self._held([version for _, version in hidden])
        refused = self._delete([version for _, version in hidden if version not in held])
        for version in refused - self._held(refused):
            self._refused += 1
            held.add(version)
        gone = {version for _, version in hidden} - held - refused
        self._delete(self._bare_markers(batch, gone))

    def _is_young(self, history: History, version: ObjectVersion) -> bool:
        """Whether a version waits for the grace time, in which its deletion can be undone."""
        # Whole seconds, as ``now`` is: listings of some servers are more precise than lookups.
        end = floor(history.hidden_since(version)) + self.grace
        if end <= self.now:
            return False
        if version.key.partition("/")[0] + "/" in _LASTING:  # leases and the like come and go
            self._wait(version, end)
        return True

    def _held(self, versions: Iterable[ObjectVersion]) -> set[ObjectVersion]:
        """Return the locked ones, and note when their locks end."""
        held = set()
        asked = tuple(versions)
        for version, end in zip(asked, each(self.store.scope, self._end, asked, _REQUESTS), strict=True):
            if end > self.now:
                self._wait(version, end)
                held.add(version)
        return held

    def _end(self, scope: CancelScope, version: ObjectVersion) -> float:
        try:
            lock = self.store.within(scope).locks.lock_of(version.key, version.version)
        except ObjectNotFound:
            return 0.0
        return 0.0 if lock is None else lock.until

    def _wait(self, version: ObjectVersion, end: float) -> None:
        day = datetime.fromtimestamp(end, UTC).date()
        objects, total = self._waiting.get(day, (0, 0))
        self._waiting[day] = objects + 1, total + version.size

    def _delete(self, versions: Sequence[ObjectVersion]) -> set[ObjectVersion]:
        """Delete versions and markers; return those that the store refuses to delete."""
        refused = set[ObjectVersion]()
        for start in range(0, len(versions), _BATCH):
            self.beat()
            part = versions[start : start + _BATCH]
            refused |= set(self.store.locks.delete(part))
            self.freed += sum(version.size for version in part if version not in refused)
        return refused

    def _bare_markers(self, batch: Sequence[History], gone: set[ObjectVersion]) -> list[ObjectVersion]:
        """Return markers below which nothing is left."""
        return [marker for history in batch for marker in _bare(history, gone)]


def _bare(history: History, gone: set[ObjectVersion]) -> Iterator[ObjectVersion]:
    stays = [version for version in history.stored if version not in gone]
    if not stays:
        yield from history.markers
