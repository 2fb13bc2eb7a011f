"""A repository that is open: the one object that the use cases hold."""

from __future__ import annotations

import os
from collections.abc import Iterator

from puller.errors import (
    DamagedData,
    NoRepository,
    ObjectExists,
    ObjectNotFound,
    RepositoryExists,
)
from puller.repository import descriptor as descriptors
from puller.repository import index, slots
from puller.repository.descriptor import Descriptor
from puller.repository.index import ChunkIndex, IndexedPack
from puller.repository.keys import KEY, KeyRing
from puller.repository.mapreader import MapReader
from puller.repository.packs import PackReader
from puller.repository.pages import PackTable
from puller.repository.points import Points
from puller.repository.run import Run, Tuning
from puller.repository.sealing import BOX_LIMIT, BoxKind, Cipher
from puller.store.base import ObjectInfo, Store
from puller.store.probe import honours_put_if_absent

INDEX_PREFIX = "index/"


class Repository:
    """Points, packs, maps and runs of one repository, with the keys that opened it."""

    def __init__(self, store: Store, descriptor: Descriptor, keys: KeyRing) -> None:
        self.store = store
        self.descriptor = descriptor
        self.keys = keys
        self.points = Points(store, keys.boxes())
        self.packs = PackReader(store, keys)
        self.maps = MapReader(self.packs, PackTable())

    @property
    def id(self) -> str:
        """32 hexadecimal digits."""
        return self.descriptor.id

    def indexed(self) -> Iterator[IndexedPack]:
        """What all index objects say. A damaged one is passed over: the index is never needed."""
        boxes = self.keys.boxes()
        for info in self.store.list(INDEX_PREFIX):
            try:
                box = self.store.get(info.key, max_size=BOX_LIMIT)
                yield from index.decode(boxes.unpack(BoxKind.INDEX, info.key, box))
            except (DamagedData, ObjectNotFound):
                continue

    def run(self, tuning: Tuning | None = None) -> Run:
        """Begin a run that writes. Use as a context."""
        known = ChunkIndex(self.maps.table)
        known.load(self.indexed())
        return Run(self, known, tuning or Tuning())

    def objects(self) -> Iterator[ObjectInfo]:
        """Everything that is stored."""
        return self.store.list("")


def create(store: Store, password: str | None) -> Repository:
    """Make a repository in ``store``: encrypted under ``password``, or plain if it is None.

    The descriptor is written last, so a half-made repository is none. Raises RepositoryExists.
    """
    _refuse_existing(store)
    cipher = Cipher.NONE if password is None else Cipher.AES_256_GCM
    descriptor = descriptors.new(cipher, honours_put_if_absent(store, "locks/"))
    keys = _first_keys(store, descriptor, password)
    try:
        descriptors.save(store, descriptor)
    except ObjectExists as error:
        raise RepositoryExists(f"a repository has just been made at {store.url}") from error
    return Repository(store, descriptor, keys)


def _refuse_existing(store: Store) -> None:
    try:
        descriptors.load(store)
    except NoRepository as error:
        if isinstance(error.__cause__, ObjectNotFound):
            return
        raise
    raise RepositoryExists(f"there is a repository at {store.url} already")


def _first_keys(store: Store, descriptor: Descriptor, password: str | None) -> KeyRing:
    if password is None:
        return KeyRing.unencrypted(descriptor.id_bytes)
    master = os.urandom(KEY)
    slots.add_password(store, descriptor.id_bytes, master, password, "first")
    return KeyRing.from_master(descriptor.id_bytes, master)


def open_repository(store: Store, password: str | None) -> Repository:
    """Open the repository in ``store``. Raises NoRepository, WrongKey, UnsupportedFormat."""
    descriptor = descriptors.load(store)
    if descriptor.cipher_kind is Cipher.NONE:
        keys = KeyRing.unencrypted(descriptor.id_bytes)
    else:
        keys = slots.open_with_password(store, descriptor.id_bytes, password)
    return Repository(store, descriptor, keys)
