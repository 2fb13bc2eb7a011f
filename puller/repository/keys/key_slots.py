"""Key slots, through which a password or a key file opens the repository (docs/format.md, "Keys").

To change a password, add a slot and remove the old one: stored data does not change.
"""

from __future__ import annotations

import os
import re
import secrets as randomness
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import chain

import msgspec
from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from puller.cancelling import CancelScope
from puller.errors import (
    DamagedData,
    KeyNotHeld,
    ObjectNotFound,
    UnknownKind,
    UnsupportedFormat,
    UsageError,
    WrongKey,
)
from puller.repository.format.sealing import NONCE
from puller.repository.keys.keyring import BACKUP_ONLY_KEYS, KEY, KeyRing, derive
from puller.store.base import Store
from puller.store.parallel import READERS, each
from puller.units import KIB, MIB

PREFIX = "keys/"
VERSION = 1
SLOT_LIMIT = 64 * KIB
FULL = "full"
BACKUP_ONLY = "backup-only"
MIN_KEY_FILE = 32
"""Bytes: a key file is used as it is, without a costly derivation, so it must be random and long."""

_MOST_MEMORY, _MOST_ITERATIONS, _MOST_LANES = 256 * MIB, 16, 16
"""Most costs of a password that a reader accepts. A slot is not authenticated before it is opened; 64 MiB, 3
and 4 are what puller writes."""

_ID = re.compile(r"[0-9a-f]{16}")
_ARGON2ID = "argon2id"
_HKDF = "hkdf-sha256"


class Kdf(msgspec.Struct, frozen=True):
    """Derivation of a key from the secret. The costs are RFC 9106's second recommendation."""

    salt: str
    name: str = _ARGON2ID
    memory_kib: int = 64 * 1024
    iterations: int = 3
    lanes: int = 4


class KeySlot(msgspec.Struct, frozen=True):
    """One object under ``keys/``. ``repository`` is the id of the repository that it opens."""

    repository: str
    kind: str
    role: str
    kdf: Kdf
    nonce: str
    sealed: str
    created: datetime
    label: str = ""
    version: int = VERSION


_KEY_SLOTS = msgspec.json.Decoder(KeySlot)


@dataclass(frozen=True, slots=True)
class Password:
    """A memorable secret, whose key derivation costs memory and time."""

    text: str = field(repr=False)

    kind = "password"
    kdf_name = _ARGON2ID

    def key(self, kdf: Kdf) -> bytes:
        """Return the slot's key. Raises DamagedData, UnsupportedFormat."""
        if (
            kdf.memory_kib > _MOST_MEMORY // KIB
            or kdf.iterations > _MOST_ITERATIONS
            or kdf.lanes > _MOST_LANES
        ):
            raise DamagedData("a key slot requires an unreasonable amount of work")
        if min(kdf.memory_kib, kdf.iterations, kdf.lanes) < 1:
            raise DamagedData("a key slot has invalid parameters")
        try:
            argon = Argon2id(
                salt=bytes.fromhex(kdf.salt),
                length=KEY,
                iterations=kdf.iterations,
                lanes=kdf.lanes,
                memory_cost=kdf.memory_kib,
            )
            return argon.derive(self.text.encode())
        except UnsupportedAlgorithm as error:
            raise UnsupportedFormat("this build of 'cryptography' has no Argon2id") from error
        except MemoryError as error:
            raise DamagedData(
                f"a key slot requires {kdf.memory_kib} KiB of memory, which this host lacks"
            ) from error
        except ValueError as error:
            raise DamagedData(f"a key slot has invalid parameters: {error}") from error


@dataclass(frozen=True, slots=True)
class KeyFile:
    """A file of random bytes, at least MIN_KEY_FILE of them."""

    content: bytes = field(repr=False)

    kind = "key-file"
    kdf_name = _HKDF

    def key(self, kdf: Kdf) -> bytes:
        """Return the slot's key. Raises DamagedData."""
        try:
            return derive(self.content, bytes.fromhex(kdf.salt), b"puller v1 key file")
        except ValueError as error:
            raise DamagedData(f"a key slot has invalid parameters: {error}") from error


Secret = Password | KeyFile


@dataclass(frozen=True, slots=True)
class Opened:
    """A slot opened by a secret. ``content`` is the master secret, or the backup-only keys."""

    slot_id: str
    role: str
    repository_id: bytes
    family: bytes
    content: bytes = field(repr=False)

    def ring(self) -> KeyRing:
        """Return the keys in the slot."""
        if self.role == FULL:
            return KeyRing.from_master(self.repository_id, self.family, self.content)
        return KeyRing.from_backup_only(self.repository_id, self.family, self.content)


def _aad(repository_id: bytes, family: bytes, role: str) -> bytes:
    return b"puller slot" + repository_id + role.encode() + (b"" if family == repository_id else family)


def put_slot(store: Store, opened: Opened, secret: Secret, label: str) -> str:
    """Put a slot for ``secret`` with ``opened``'s role and content; return its id."""
    _refuse_weak(secret)
    kdf, nonce = Kdf(salt=randomness.token_hex(16), name=secret.kdf_name), os.urandom(NONCE)
    aad = _aad(opened.repository_id, opened.family, opened.role)
    sealed = AESGCM(secret.key(kdf)).encrypt(nonce, opened.content, aad)
    now = datetime.now(UTC).replace(microsecond=0)
    slot = KeySlot(
        opened.repository_id.hex(), secret.kind, opened.role, kdf, nonce.hex(), sealed.hex(), now, label
    )
    slot_id = randomness.token_hex(8)
    store.put_new(PREFIX + slot_id, msgspec.json.encode(slot))
    return slot_id


def _refuse_weak(secret: Secret) -> None:
    if isinstance(secret, Password) and not secret.text:
        raise UsageError("the password is empty")
    if isinstance(secret, Password) and not _is_utf8(secret.text):
        raise UsageError("the password is not UTF-8")
    if isinstance(secret, KeyFile) and len(secret.content) < MIN_KEY_FILE:
        raise UsageError(
            f"the key file is too short: it has {len(secret.content)} bytes, but {MIN_KEY_FILE} are needed",
            advice="Create one with: head -c 64 /dev/urandom > FILE",
        )


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def first_slot(
    store: Store, repository_id: bytes, family: bytes, secret: Secret, master: bytes | None = None
) -> KeyRing:
    """Put the first slot of a new repository, for ``secret``, and return the keys. Without the ``master``
    secret of its family, create one.
    """
    opened = Opened("", FULL, repository_id, family, os.urandom(KEY) if master is None else master)
    ring = opened.ring()  # before anything is put: this host may lack an algorithm
    put_slot(store, opened, secret, "first")
    return ring


def add_slot(store: Store, opened: Opened, secret: Secret, role: str, label: str) -> str:
    """Put a slot of ``role``; return its id. Raises KeyNotHeld unless ``opened`` is of the full role."""
    if opened.role != FULL:
        raise KeyNotHeld("cannot add a key with a backup-only key")
    content = opened.content if role == FULL else opened.ring().backup_only()
    return put_slot(store, replace(opened, slot_id="", role=role, content=content), secret, label)


def list_slots(store: Store, repository_id: bytes) -> Iterator[tuple[str, KeySlot | DamagedData]]:
    """Return each slot's id with the slot, or with its damage.

    Slots of another repository are left out: an ``init`` leaves one if it was interrupted, or if another one
    won.
    """
    return load_slots(store, repository_id, slot_ids(store))


def slot_ids(store: Store) -> list[str]:
    """Return the ids of all slots, without reading them."""
    found = [(info.key.removeprefix(PREFIX), info.size) for info in store.list(PREFIX)]
    return [slot_id for slot_id, size in found if size and _ID.fullmatch(slot_id)]


def load_slots(
    store: Store, repository_id: bytes, ids: Sequence[str]
) -> Iterator[tuple[str, KeySlot | DamagedData]]:
    """Return what ``list_slots`` does for slots with these ids."""

    def load(scope: CancelScope, slot_id: str) -> KeySlot | DamagedData:
        try:
            return _load(store.within(scope), PREFIX + slot_id)
        except DamagedData as error:
            return error

    for slot_id, slot in zip(ids, each(store.scope, load, ids, READERS), strict=True):
        if isinstance(slot, DamagedData) or slot.repository == repository_id.hex():
            yield slot_id, slot


def find_slot(store: Store, slot_id: str) -> dict[str, KeySlot]:
    """Return the slot by its id, if it exists and can be read; ``slot_id`` is a guess, and may be empty."""
    with suppress(ObjectNotFound, DamagedData):
        if _ID.fullmatch(slot_id):
            return {slot_id: _load(store, PREFIX + slot_id)}
    return {}


def remove_slot(store: Store, repository_id: bytes, slot_id: str) -> None:
    """Delete a slot. Raises UsageError if it does not exist or is the last one with the full role."""
    slots = dict(list_slots(store, repository_id))
    if slot_id not in slots:
        raise UsageError(f"there is no key {slot_id}", advice="List the keys with 'puller key list'.")
    others = [slot for key, slot in slots.items() if key != slot_id]
    if not any(isinstance(slot, KeySlot) and slot.role == FULL for slot in others):
        raise UsageError(
            f"cannot remove key {slot_id}: no other key can read the repository",
            advice="Add another key whose role is full first.",
        )
    store.delete([PREFIX + slot_id])


def _load(store: Store, name: str) -> KeySlot:
    return decode(store.get(name, max_size=SLOT_LIMIT), name)


def decode(content: bytes, name: str) -> KeySlot:
    """Parse a slot, which nothing authenticates before it is opened. Raises DamagedData, UnknownKind."""
    try:
        slot = _KEY_SLOTS.decode(content)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise DamagedData(f"{name} is not a key slot: {error}") from error
    # Times are compared and shown, which needs a zone and a time within the calendar.
    if slot.created.tzinfo is None or not 1970 <= slot.created.year < 9999:
        raise DamagedData(f"{name} is damaged: its time has no zone or is out of range")
    if slot.version > VERSION:
        raise UnknownKind(f"{name} has format version {slot.version}; this puller supports {VERSION}")
    return slot


def open_slot(  # noqa: PLR0913, PLR0917 - where to look, and what is known already
    store: Store,
    repository_id: bytes,
    family: bytes,
    secret: Secret | None,
    ids: Sequence[str] | None = None,
    read: Mapping[str, KeySlot] = {},
) -> Opened:
    """Return the slot that ``secret`` opens, of all or of those with these ``ids``.

    Those that were ``read`` already, by id, are tried first. Raises WrongKey; a damaged slot does not affect
    the others.
    """
    if secret is None:
        raise WrongKey("the repository is encrypted, but no password or key file was given")
    damage: DamagedData | None = None
    left = [slot_id for slot_id in (slot_ids(store) if ids is None else ids) if slot_id not in read]
    for slot_id, slot in chain(read.items(), load_slots(store, repository_id, left)):
        try:
            content = None if isinstance(slot, DamagedData) else _try(slot, repository_id, family, secret)
            damage = slot if isinstance(slot, DamagedData) else damage
        except DamagedData as error:
            damage, content = error, None
        if content is not None and isinstance(slot, KeySlot):
            return Opened(slot_id, slot.role, repository_id, family, content)
    if damage is not None:
        raise damage
    raise WrongKey(f"this {secret.kind} opens no key slot of the repository")


def _try(slot: KeySlot, repository_id: bytes, family: bytes, secret: Secret) -> bytes | None:
    """Return the slot's content, or None if the secret belongs to another slot."""
    if (slot.kind, slot.kdf.name) != (secret.kind, secret.kdf_name):
        return None
    try:
        nonce, sealed = bytes.fromhex(slot.nonce), bytes.fromhex(slot.sealed)
        aad = _aad(repository_id, family, slot.role)
        content = AESGCM(secret.key(slot.kdf)).decrypt(nonce, sealed, aad)
    except InvalidTag:
        return None
    except ValueError as error:
        raise DamagedData(f"a key slot is damaged: {error}") from error
    if (slot.role, len(content)) not in ((FULL, KEY), (BACKUP_ONLY, BACKUP_ONLY_KEYS)):
        raise DamagedData(f"a key slot has the invalid role '{slot.role}'")
    return content
