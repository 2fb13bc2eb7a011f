"""The plugin's way to what it serves: repository, point and disks, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from puller.cancelling import PROMPT, CancelScope
from puller.errors import KeyNotHeld, NoSuchDisk, UsageError
from puller.recovery.serving.session import Session
from puller.recovery.serving.slots import CachedPackReader, SlotFolder
from puller.repository.format.descriptor import Descriptor
from puller.repository.keys.key_slots import KeyFile, Password, Secret
from puller.repository.keys.keyring import KeyRing
from puller.repository.points import DiskRecord, Point
from puller.repository.repository import Repository, open_repository
from puller.store.base import Store
from puller.store.location import address, open_store
from puller.store.wrapping.retrying import RetryingStore


class _Opened(msgspec.Struct, frozen=True):
    """An open repository, without its store, and a point of it."""

    descriptor: Descriptor
    ring: KeyRing
    point: Point


@dataclass(frozen=True, slots=True)
class Served:
    """``records`` are those of the disks to serve."""

    repository: Repository
    point: Point
    records: tuple[DiskRecord, ...]


def opened_form(repository: Repository, point: Point) -> bytes:
    """Return what opens the repository again without its password, and the point. It is secret."""
    return msgspec.json.encode(_Opened(repository.descriptor, repository.keys, point))


def open_session(session: Session, scope: CancelScope, tell: Callable[[str], None]) -> Served:
    """Open the repository, and find the point and its disks. Waits of the result belong to ``scope``.

    Raises NoRepository, WrongKey, NoSuchPoint, AmbiguousPoint, NoSuchDisk, KeyNotHeld, UsageError,
    StoreError, DamagedData.
    """
    store = open_store(session.url, session.options)
    if session.opened is not None:
        opened = msgspec.json.decode(session.opened, type=_Opened)
        repository, point = (
            Repository(RetryingStore(store, scope).within(scope), opened.descriptor, opened.ring),
            opened.point,
        )
    else:
        repository = _open(session, store, CancelScope(PROMPT, parent=scope), tell).within(scope)
        point = repository.points.select(session.point, session.hosts)
    if not repository.keys.can_read_data:
        raise KeyNotHeld("cannot read stored guest data with this key: its role is backup-only")
    if session.folder is not None:
        slots = SlotFolder(Path(session.folder), session.folder_size)
        repository.read_with(CachedPackReader(repository.store, repository.keys, slots))
    return Served(repository, point, _chosen(point, session.disks))


def _open(session: Session, store: Store, scope: CancelScope, tell: Callable[[str], None]) -> Repository:
    """Open it with the user's secret. A wrong endpoint should not keep a user waiting."""
    repository = open_repository(RetryingStore(store, scope).within(scope), _secret(session), address(store))
    if repository.replaced is not None:
        tell(f"{repository.replaced.text}: {repository.replaced.advice}")
    return repository


def _secret(session: Session) -> Secret | None:
    if session.key_file is not None:
        return KeyFile(session.key_file)
    return None if session.password is None else Password(session.password)


def _chosen(point: Point, targets: Sequence[str]) -> tuple[DiskRecord, ...]:
    for target in targets:
        if point.disk(target) is None:
            had = ", ".join(disk.disk for disk in point.disks) or "none"
            raise NoSuchDisk(f"restore point {point.point} has no disk {target}; it has {had}")
    if not point.disks:
        raise UsageError(
            f"point {point.point} has no disks to serve", advice="Choose a point of a domain with disks."
        )
    return tuple(disk for disk in point.disks if not targets or disk.disk in targets)
