"""A repository that is open: the one object that the use cases hold."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from puller.errors import (
    DamagedData,
    NoRepository,
    ObjectExists,
    ObjectNotFound,
    RepositoryExists,
)
from puller.repository import descriptor as descriptors
from puller.repository import slots
from puller.repository.chunkindex import open_index
from puller.repository.claims import Claims
from puller.repository.condemned import Condemned
from puller.repository.damaged import DamagedPacks, union
from puller.repository.descriptor import Descriptor
from puller.repository.index import IndexedPack
from puller.repository.indexfeed import INDEX_PREFIX, identity, read_index
from puller.repository.keys import KeyRing
from puller.repository.mapreader import MapReader
from puller.repository.packs import PackReader
from puller.repository.pages import PackTable
from puller.repository.pending import PendingPoints
from puller.repository.points import Points
from puller.repository.run import Run, Tuning
from puller.repository.sealing import Cipher
from puller.repository.slots import Secret
from puller.store.base import ObjectInfo, Store
from puller.store.probe import honours_put_if_absent
from puller.store.unconditional import UnconditionalStore


class Repository:
    """Points, packs, maps and runs of one repository, with the keys that opened it."""

    def __init__(self, store: Store, descriptor: Descriptor, keys: KeyRing) -> None:
        self.store = store
        self.descriptor = descriptor
        self.keys = keys
        self.points = Points(store, keys.boxes())
        self.pending = PendingPoints(store, keys.boxes())
        self.condemned = Condemned(store, keys.boxes())
        self.damaged = DamagedPacks(store, keys.boxes())
        self.packs = PackReader(store, keys)
        self.maps = MapReader(self.packs, PackTable())

    @property
    def id(self) -> str:
        """32 hexadecimal digits."""
        return self.descriptor.id

    def indexed(self) -> Iterator[IndexedPack]:
        """What all index objects say. A damaged one is passed over: the index is never needed."""
        for info in self.store.list(INDEX_PREFIX):
            yield from self._read_index(info.key) or ()

    def _read_index(self, key: str) -> list[IndexedPack] | None:
        return read_index(self.store, self.keys.boxes(), key)

    def learn_damage(self) -> None:
        """Take in what checks have recorded: ``packs.damaged`` then names those packs too."""
        self.packs.damaged |= union(self.damaged.read())

    def run(self, tuning: Tuning | None = None, excluded: Collection[bytes] = frozenset()) -> Run:
        """Begin a run that writes. Use as a context.

        Contents of ``excluded`` packs, by id, of condemned and of damaged ones count as not held.
        """
        # Before the index is listed: prune drops a record only once no index names what it condemns.
        claims = Claims(self.condemned, self.maps.table)
        self.learn_damage()
        avoided = claims.excluded.union(excluded, self.packs.damaged)
        listed = {identity(info): info.key for info in self.store.list(INDEX_PREFIX)}
        known = open_index(self.descriptor.id_bytes, listed, self._read_index, self.maps.table, avoided)
        return Run(self, known, claims, tuning or Tuning())

    def objects(self) -> Iterator[ObjectInfo]:
        """Everything that is stored."""
        return self.store.list("")


def create(store: Store, secret: Secret | None) -> Repository:
    """Make a repository in ``store``: encrypted, opened by ``secret``, or plain if that is None.

    The descriptor is written last, so a half-made repository is none. Raises RepositoryExists.
    """
    _refuse_existing(store)
    cipher = Cipher.NONE if secret is None else Cipher.AES_256_GCM
    descriptor = descriptors.new(cipher, honours_put_if_absent(store, "locks/"))
    store = _as_found(store, descriptor)
    keys = _first_keys(store, descriptor, secret)
    try:
        descriptors.save(store, descriptor)
    except ObjectExists as error:
        raise RepositoryExists(f"a repository has just been made at {store.url}") from error
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
    raise RepositoryExists(f"there is a repository at {store.url} already")


def _first_keys(store: Store, descriptor: Descriptor, secret: Secret | None) -> KeyRing:
    if secret is None:
        return KeyRing.unencrypted(descriptor.id_bytes)
    return slots.first_slot(store, descriptor.id_bytes, secret)


def open_repository(store: Store, secret: Secret | None) -> Repository:
    """Open the repository in ``store``. Raises NoRepository, WrongKey, UnsupportedFormat."""
    descriptor = descriptors.load(store)
    store = _as_found(store, descriptor)
    if descriptor.cipher_kind is Cipher.NONE:
        if any(True for _ in slots.list_slots(store)):
            # Else whoever can write the store could make hosts store plain data in it.
            raise DamagedData(f"{store.url} says that it is not encrypted, yet it has key slots")
        keys = KeyRing.unencrypted(descriptor.id_bytes)
    else:
        keys = slots.open_slot(store, descriptor.id_bytes, secret).ring()
    return Repository(store, descriptor, keys)
