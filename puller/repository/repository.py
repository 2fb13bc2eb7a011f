"""An open repository: the object that all use cases share."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import TYPE_CHECKING, Self

from puller.cancelling import CancelScope, Scoped
from puller.errors import (
    DamagedData,
    KeyNotHeld,
    NoRepository,
    NotEncrypted,
    ObjectExists,
    ObjectNotFound,
    RepositoryExists,
    WrongKey,
)
from puller.repository import remembered
from puller.repository.format import descriptor as descriptors
from puller.repository.format.address import Address
from puller.repository.format.descriptor import Descriptor
from puller.repository.format.sealing import Cipher
from puller.repository.index.budget import BUDGET
from puller.repository.keys import key_slots as slots
from puller.repository.keys.key_slots import KeySlot, Opened, Secret
from puller.repository.keys.keyring import KeyRing
from puller.repository.points import Point, Points
from puller.repository.records.condemned import Condemned
from puller.repository.records.damaged import DamagedPacks, union
from puller.repository.records.kept import Keeps
from puller.repository.records.lockpolicy import LockPolicies, LockPolicy, strictest, vital_lock
from puller.repository.records.proofs import Proofs
from puller.repository.records.verified import VerifiedPacks
from puller.repository.remembered import Identity, Replacement
from puller.repository.writing.pending import PendingPoints, commit
from puller.store.base import ObjectInfo, Store
from puller.store.options import DEFAULTS
from puller.store.parallel import together
from puller.store.probe import honours_put_if_absent
from puller.store.wrapping.unconditional import UnconditionalStore

if TYPE_CHECKING:
    from puller.pipeline.flow import Flow
    from puller.repository.format.index import IndexPart, PackEntry
    from puller.repository.index.hints import HintFile
    from puller.repository.reading.mapreader import MapReader
    from puller.repository.reading.packs import PackReader
    from puller.repository.writing.claims import Claims
    from puller.repository.writing.run import Run, Tuning
    from puller.repository.writing.runlocks import Locking

    _Pair = tuple[PackReader, MapReader]

# What reads packs and writes runs needs numpy, which takes longer to load than all of this: commands that
# read only records, such as `points`, do without.


@dataclass(frozen=True, slots=True)
class Preparation:
    """Everything that a run reads before the footers: condemned slots, hints of the index, lock policies."""

    claims: Claims
    hints: tuple[HintFile, ...]
    lock_policies: Sequence[LockPolicy | None]


class _Readers:
    """The readers of packs and maps, made when one is first needed. Threads share it."""

    def __init__(self, store: Store, keys: KeyRing, packs: PackReader | None = None) -> None:
        self._store, self._keys, self._packs = store, keys, packs
        self._made: _Pair | None = None
        self._lock = Lock()

    def both(self) -> _Pair:
        with self._lock:
            if self._made is None:
                self._made = self._make()
            return self._made

    def _make(self) -> _Pair:
        from puller.repository.format.pages import PackTable
        from puller.repository.reading.mapreader import MapReader
        from puller.repository.reading.packs import PackReader

        packs = self._packs or PackReader(self._store, self._keys)
        return packs, MapReader(packs, PackTable())


class Repository(Scoped):
    """An open repository: its points, packs, maps and runs, with the keys that opened it.

    ``id`` is its id. ``replaced`` is the difference from the repository that this host remembers at its
    URL, or None. ``index_budget`` is the number of bytes that this host keeps of its index,
    ``store_options`` are those that its store was opened with. Threads can share it.
    """

    def __init__(
        self, store: Store, descriptor: Descriptor, keys: KeyRing, replaced: Replacement | None = None
    ) -> None:
        self.store = store
        self.scope = store.scope
        self.replaced = replaced
        self.index_budget = BUDGET
        self.store_options = DEFAULTS
        self.descriptor = descriptor
        self.keys = keys
        self.points = Points(store, keys.boxes())
        self.pending = PendingPoints(store, keys.boxes())
        self.condemned = Condemned(store, keys.boxes())
        self.damaged = DamagedPacks(store, keys.boxes())
        self.keeps = Keeps(store, keys.boxes())
        self.proofs = Proofs(store, keys)
        self.verified = VerifiedPacks(store, keys.boxes())
        self.lock_policies = LockPolicies(store, keys.boxes())
        self._readers = _Readers(store, keys)
        self._own: _Pair | None = None

    def within(self, scope: CancelScope) -> Self:
        """See ``Scoped.within``."""
        bound = super().within(scope)
        bound.store = self.store.within(scope)
        bound._own = None
        return bound

    @property
    def packs(self) -> PackReader:
        """The reader of packs; readers in all scopes share a cache."""
        return self._own_readers()[0]

    @property
    def maps(self) -> MapReader:
        """The reader of maps; readers in all scopes share the numbers of packs."""
        return self._own_readers()[1]

    def _own_readers(self) -> _Pair:
        if self._own is None:
            packs, maps = self._readers.both()
            self._own = packs.within(self.scope), maps.within(self.scope)
        return self._own

    def read_with(self, packs: PackReader) -> None:
        """Read packs with this reader from now on."""
        self._readers, self._own = _Readers(self.store, self.keys, packs), None

    @property
    def id(self) -> str:
        """32 hexadecimal digits."""
        return self.descriptor.id

    def indexed(self) -> Iterator[PackEntry]:
        """Return the packs in all index objects. Damaged ones are skipped: the index is never needed."""
        from puller.repository.reading.indexes import list_index, read_packs

        for info in list_index(self.store):
            yield from read_packs(self.store, self.keys, info) or ()

    def _read_index(self, info: ObjectInfo, share: float) -> IndexPart | None:
        from puller.repository.reading.indexes import read_index

        return read_index(self.store, self.keys, info, share)

    def learn_damage(self) -> None:
        """Read the damage that checks have recorded, and add these packs to ``packs.damaged``."""
        self.packs.damaged |= union(self.damaged.read())

    def run(
        self,
        tuning: Tuning | None = None,
        excluded: Collection[bytes] = frozenset(),
        prepared: Preparation | None = None,
    ) -> Run:
        """Begin a run that writes. Use as a context.

        Contents of ``excluded`` packs, by id, of condemned and of damaged ones count as not stored.
        """
        from puller.pipeline.flow import Flow
        from puller.repository.writing.run import Tuning

        flow = Flow(self.scope)
        try:
            bound = self.within(flow.scope)
            chosen = tuning or Tuning()
            if chosen.uploads is None:
                chosen = replace(chosen, uploads=self.store_options.connections)
            return bound._begin(flow, chosen, excluded, prepared or bound.prepare())
        except BaseException:
            flow.scope.cancel()  # abandoned threads may still read the index
            raise

    def prepare(self) -> Preparation:
        """Read what a run needs before it reads a footer. Raises StoreError, DamagedData."""
        from puller.repository.index.cache import load_hints
        from puller.repository.reading.indexes import list_index
        from puller.repository.writing.claims import Claims

        # Before a footer is read: prune deletes a record only once no footer has its slots. The index only
        # says in which footers to look, so it may be listed at the same time.
        claims, _, listed, records = together(
            self.scope,
            lambda _: Claims(self.condemned, self.maps.table),  # which keep the scope of the run
            lambda own: self.within(own).learn_damage(),
            lambda own: list(list_index(self.store.within(own))),
            lambda own: self.lock_policies.within(own).records(),
        )
        hints = load_hints(self.descriptor.id_bytes, listed, self._read_index, self.index_budget)
        return Preparation(claims, hints, records)

    def _begin(self, flow: Flow, tuning: Tuning, excluded: Collection[bytes], prepared: Preparation) -> Run:
        from puller.repository.reading.footers import Footers
        from puller.repository.writing.chunkindex import ChunkIndex
        from puller.repository.writing.run import Run

        claims = prepared.claims
        claims.wait_in(flow.scope)
        avoided = claims.excluded.union(excluded, self.packs.damaged)
        known = ChunkIndex(prepared.hints, Footers(self.packs), self.maps.table, avoided, self.packs.damaged)
        return Run(self, flow, known, claims, tuning, self._locking(prepared.lock_policies))

    def _locking(self, records: Sequence[LockPolicy | None]) -> Locking:
        from puller.repository.writing.runlocks import RunLocks, Unlocked

        if not self.store.locks.possible:  # a copy of points that are locked elsewhere
            return Unlocked(was_decided=True)
        policy = strictest(records)
        if policy is None:
            return Unlocked(was_decided=bool(records))
        return RunLocks(self.store, self.packs, self.maps, policy)

    def republish(self, point: Point, base: Point, roots: Collection[Address]) -> Point:
        """Publish ``point``, all of whose maps, at ``roots``, are those of the committed ``base``.

        Return it as committed. Raises Overtaken if no parent of the point has these maps any more.
        """
        from puller.repository.writing.claims import UNCLAIMED

        locks = self._locking(self.lock_policies.records() if self.store.locks.possible else ())
        for root in roots:
            locks.rely_on(base, root)
            locks.take_over(root)
        sealed, lock = locks.seal(point)
        points = self.points if lock is None else self.points.locking(lock)
        commit(points, self.pending, UNCLAIMED, set(roots), sealed, lambda: None)
        return sealed

    def lasting(self) -> Store:
        """Return the store for objects that every restore needs: they are locked under a lock policy."""
        records = self.lock_policies.records()
        lock = vital_lock(self.store, strictest(records)) if records else None
        return self.store if lock is None else self.store.locking(lock)

    def objects(self) -> Iterator[ObjectInfo]:
        """Return all stored objects."""
        return self.store.list("")


@dataclass(frozen=True, slots=True)
class Family:
    """The repositories with one master secret: the id of the first one, and the secret, None without
    encryption.
    """

    id: bytes
    master: bytes | None = field(default=None, repr=False)


def family_of(repository: Repository, secret: Secret | None) -> Family:
    """Return the family of ``repository``, of which ``secret`` opens a key. Raises WrongKey, KeyNotHeld."""
    descriptor = repository.descriptor
    if descriptor.cipher_kind is Cipher.NONE:
        return Family(descriptor.family_bytes)
    opened = slots.open_slot(repository.store, descriptor.id_bytes, descriptor.family_bytes, secret)
    if opened.role != slots.FULL:
        raise KeyNotHeld(
            f"cannot create a repository like {repository.store.url} with this key: its role is backup-only"
        )
    return Family(descriptor.family_bytes, opened.content)


def create(
    store: Store,
    secret: Secret | None,
    address: str | None = None,
    locks: LockPolicy | None = None,
    family: Family | None = None,
) -> Repository:
    """Create a repository in ``store``: encrypted, opened by ``secret``, or unencrypted if that is None.

    The descriptor is written last, so an unfinished repository does not count as one. This host remembers it
    at ``address``. With ``locks``, it is locked, and so will its points be. Without a ``family`` it begins
    one. Raises RepositoryExists; UnsupportedByStore if the store cannot lock.
    """
    _refuse_existing(store)
    if locks is not None:
        store.locks.require()
    cipher = Cipher.NONE if secret is None else Cipher.AES_256_GCM
    conditional = honours_put_if_absent(store, "locks/")
    descriptor = descriptors.new(cipher, conditional, None if family is None else family.id)
    store = _as_found(store, descriptor)
    vital = store if locks is None else store.locking(locks.lock(store.locks.now()))
    keys = _first_keys(vital, descriptor, secret, None if family is None else family.master)
    if locks is not None:
        LockPolicies(store, keys.boxes()).put(locks)
    try:
        descriptors.save(vital, descriptor)
    except ObjectExists as error:
        raise RepositoryExists(f"another process has just created a repository at {store.url}") from error
    if address is not None:
        remembered.remember(Identity.of(descriptor, address))
    return Repository(store, descriptor, keys)


def _as_found(store: Store, descriptor: Descriptor) -> Store:
    return store if descriptor.conditional_writes else UnconditionalStore(store)


def _refuse_existing(store: Store) -> None:
    try:
        descriptors.load(store)
    except NoRepository as error:
        if isinstance(error.__cause__, ObjectNotFound):
            return
        raise
    raise RepositoryExists(f"a repository exists already at {store.url}")


def _first_keys(store: Store, descriptor: Descriptor, secret: Secret | None, master: bytes | None) -> KeyRing:
    if secret is None:
        return KeyRing.unencrypted(descriptor.id_bytes, descriptor.family_bytes)
    return slots.first_slot(store, descriptor.id_bytes, descriptor.family_bytes, secret, master)


def open_repository(store: Store, secret: Secret | None, address: str | None = None) -> Repository:
    """Open the repository in ``store``.

    With a ``secret``, or the memory of an encrypted repository at ``address``, an unencrypted repository is
    refused: a writer of the store could otherwise make hosts store unencrypted data in it. Raises
    NoRepository, WrongKey, UnsupportedFormat.
    """
    known = None if address is None else remembered.recall(address)
    guess = "" if known is None else known.slot
    descriptor, slot_ids, read = together(
        store.scope,
        lambda own: descriptors.load(store.within(own)),
        lambda own: slots.slot_ids(store.within(own)),
        lambda own: slots.find_slot(store.within(own), guess),
    )
    replaced = None if address is None else remembered.compare(descriptor, address)
    store = _as_found(store, descriptor)
    if descriptor.cipher_kind is Cipher.NONE:
        _refuse_plain(store, descriptor, secret, replaced, slot_ids)
        slot, keys = "", KeyRing.unencrypted(descriptor.id_bytes, descriptor.family_bytes)
    else:
        opened = _open_keys(store, descriptor, secret, replaced, slot_ids, read)
        slot, keys = opened.slot_id, opened.ring()
    if address is not None and replaced is None:
        remembered.remember(Identity.of(descriptor, address, slot))
    return Repository(store, descriptor, keys, replaced)


def _refuse_plain(
    store: Store,
    descriptor: Descriptor,
    secret: Secret | None,
    replaced: Replacement | None,
    slot_ids: Sequence[str],
) -> None:
    """Raise if this repository should be encrypted."""
    if any(True for _ in slots.load_slots(store, descriptor.id_bytes, slot_ids)):
        raise DamagedData(f"the repository at {store.url} claims to be unencrypted, but it has key slots")
    was = replaced if replaced is not None and replaced.known.is_encrypted else None
    advice = None if was is None else was.advice
    plain = f"the repository at {store.url} is not encrypted"
    if secret is not None:
        raise NotEncrypted(f"{plain}, but a {secret.kind.replace('-', ' ')} was given", advice=advice)
    if was is not None:
        raise NotEncrypted(f"{plain}, but this host knows an encrypted one there", advice=advice)


def _open_keys(  # noqa: PLR0913, PLR0917 - what opening a repository has found so far
    store: Store,
    descriptor: Descriptor,
    secret: Secret | None,
    replaced: Replacement | None,
    slot_ids: Sequence[str],
    read: Mapping[str, KeySlot],
) -> Opened:
    try:
        family = descriptor.family_bytes
        return slots.open_slot(store, descriptor.id_bytes, family, secret, slot_ids, read)
    except WrongKey as error:
        if replaced is None or secret is None:
            raise
        raise WrongKey(f"{error.message}; {replaced.text}", advice=replaced.advice) from error
