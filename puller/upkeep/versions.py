"""Bring back what was deleted or overwritten in a bucket with versions (docs/immutability.md).

puller puts each name once. So the oldest version of a name is puller's own, and everything above it is a
deletion or somebody else's: this removes what is above. The descriptor comes first, then the keys. These open
the repository, so that the oldest version of each other object that decrypts correctly can be found.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

from puller.errors import DamagedData, NoRepository, ObjectNotFound, RepositoryError
from puller.events import Observer, Step, ignore
from puller.repository.collecting.lease import Lease
from puller.repository.format import descriptor as descriptors
from puller.repository.format.footer import TRAILER, decode_footer, decode_trailer
from puller.repository.format.names import FOLDERS, is_foreign
from puller.repository.format.packname import parse_pack_name
from puller.repository.format.sealing import BOX_LIMIT, BoxKind
from puller.repository.keys import key_slots
from puller.repository.keys.key_slots import Secret
from puller.repository.keys.keyring import KeyRing
from puller.repository.reading.packs import TAIL
from puller.repository.repository import open_repository
from puller.store.base import Store
from puller.store.objectlock import History, Locks, ObjectVersion, histories

_KINDS: Mapping[str, BoxKind] = {
    "locking/": BoxKind.LOCK_POLICY,
    "points/": BoxKind.POINT,
    "condemned/": BoxKind.CONDEMNED,
    "kept/": BoxKind.KEEP,
}
_BOXES = tuple(_KINDS)
_PACKS = ("maps/", "packs/")

_BATCH = 500
"""Objects whose upper versions are deleted at once."""

IsGood = Callable[[ObjectVersion], bool]


@dataclass(frozen=True, slots=True)
class VersionsReport:
    """Report of ``repair_versions``.

    ``brought_back`` counts objects by their directory, ``repository.json`` included. ``unreadable`` names the
    objects of which no version decrypts correctly; they stay as they are.
    """

    brought_back: dict[str, int]
    unreadable: tuple[str, ...]

    @property
    def count(self) -> int:
        """The number of objects that were brought back."""
        return sum(self.brought_back.values())


def repair_versions(
    store: Store,
    secret: Secret | None,
    since: datetime | None = None,
    dry_run: bool = False,
    observer: Observer = ignore,
) -> VersionsReport:
    """Bring back what was hidden, since ``since`` by the store's clock. See ``puller.repair_versions``."""
    repair = _Repair(store, since.timestamp() if since else 0.0, dry_run)
    observer(Step("repository", "descriptor"))
    repair.bring_back(descriptors.NAME, repair.is_descriptor)
    repair.bring_back(key_slots.PREFIX, repair.is_key_slot)
    if dry_run and repair.brought_back[descriptors.NAME]:
        raise NoRepository(
            f"the descriptor of the repository at {store.url} is hidden, so a dry run cannot open it",
            advice="Run the command without --dry-run: it deletes no version that puller has put.",
        )
    repository = open_repository(store, secret)
    keys = repository.keys
    with Lease.take(store, keys.boxes(), "prune") as lease:
        for folder in (*_BOXES, *_PACKS):
            observer(Step("repository", folder.rstrip("/")))
            is_good = (
                partial(_is_pack, store.locks, keys) if folder in _PACKS else repair.is_box(keys, folder)
            )
            repair.bring_back(folder, is_good, lease.renew)
    return VersionsReport(dict(repair.brought_back), tuple(repair.unreadable))


@dataclass
class _Repair:
    store: Store
    since: float
    dry_run: bool
    brought_back: Counter[str] = field(default_factory=Counter)
    unreadable: list[str] = field(default_factory=list)

    @property
    def locks(self) -> Locks:
        return self.store.locks

    def bring_back(self, prefix: str, is_good: IsGood, beat: Callable[[], None] = lambda: None) -> None:
        """Bring back the objects whose keys begin with ``prefix``."""
        batch: list[tuple[History, ObjectVersion]] = []
        for history in self._hidden(prefix):
            beat()
            found = self._first_good(history, is_good)
            if found is None:
                self.unreadable.append(history.key)
            elif not history.shows(found):
                batch.append((history, found))
            if len(batch) == _BATCH:
                self._uncover(batch)
                batch = []
        self._uncover(batch)

    def _hidden(self, prefix: str) -> Iterator[History]:
        """Yield the objects whose first version is not current, and was hidden late enough."""
        for history in histories(self.locks, prefix):
            if not history.stored or not _is_ours(prefix, history):
                continue
            first = history.stored[-1]
            if not history.shows(first) and history.hidden_since(first) >= self.since:
                yield history

    def _first_good(self, history: History, is_good: IsGood) -> ObjectVersion | None:
        if len(history.stored) == 1:  # nothing to choose from; 'puller check' reads it
            return history.stored[0]
        return next((version for version in reversed(history.stored) if is_good(version)), None)

    def _uncover(self, batch: list[tuple[History, ObjectVersion]]) -> None:
        for history, _ in batch:
            folder, slash, _ = history.key.partition("/")
            self.brought_back[folder + slash] += 1
        if self.dry_run:
            return
        above = [item for history, version in batch for item in _above(history, version)]
        refused = set[ObjectVersion]()
        for start in range(0, len(above), 1000):
            refused.update(self.locks.delete(above[start : start + 1000]))
        for history, version in batch:
            if any(item in refused and not item.is_marker for item in _above(history, version)):
                self._put_again(version)

    def _put_again(self, version: ObjectVersion) -> None:
        """Put a version above one that is locked, which somebody else has put."""
        content = self.locks.get_tail(version.key, version.version, max(1, version.size))
        lock = self.locks.lock_of(version.key, version.version)
        is_locked = lock is not None and lock.until > self.locks.now()
        store = self.store.locking(lock) if lock is not None and is_locked else self.store
        store.put(version.key, content)

    def is_descriptor(self, version: ObjectVersion) -> bool:
        return self._holds(version, lambda content: descriptors.decode(content, self.store.url))

    def is_key_slot(self, version: ObjectVersion) -> bool:
        return self._holds(version, lambda content: key_slots.decode(content, version.key))

    def is_box(self, keys: KeyRing, folder: str) -> IsGood:
        boxes = keys.boxes()
        return lambda version: self._holds(
            version, lambda content: boxes.unpack(_KINDS[folder], version.key, content)
        )

    def _holds(self, version: ObjectVersion, decode: Callable[[bytes], object]) -> bool:
        if not 0 < version.size <= BOX_LIMIT:
            return False
        try:
            decode(self.locks.get_tail(version.key, version.version, version.size))
        except (RepositoryError, ObjectNotFound):
            return False
        return True


def _is_ours(prefix: str, history: History) -> bool:
    """Whether the object has that name, or is one of puller's in that directory."""
    if prefix in FOLDERS:
        return not is_foreign(history.key, history.stored[-1].size)
    return history.key == prefix


def _above(history: History, version: ObjectVersion) -> Iterable[ObjectVersion]:
    """Everything that hides a version: newer versions, and all delete markers."""
    return (*history.stored[: history.stored.index(version)], *history.markers)


def _is_pack(locks: Locks, keys: KeyRing, version: ObjectVersion) -> bool:
    """Whether a version has the footer of the pack that its name says, and its length."""
    named = parse_pack_name(version.key)
    if named is None:
        return False
    kind, pack_id, _ = named
    try:
        tail = locks.get_tail(version.key, version.version, TAIL)
        trailer = decode_trailer(tail, kind, pack_id)
        needed = trailer.footer_length + TRAILER
        if needed > len(tail):
            tail = locks.get_tail(version.key, version.version, needed)
        footer = decode_footer(keys, trailer, tail[-needed:-TRAILER])
    except (DamagedData, ObjectNotFound):
        return False
    return int(footer.offsets[-1]) + needed == version.size
