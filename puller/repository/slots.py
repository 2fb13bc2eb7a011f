"""Key slots: how a password or a key file opens the repository (docs/format.md, "Keys")."""

from __future__ import annotations

import os
import secrets
from datetime import UTC, datetime

import msgspec
from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from puller.errors import DamagedData, UnsupportedFormat, WrongKey
from puller.repository.keys import KEY, KeyRing
from puller.repository.sealing import NONCE
from puller.store.base import Store
from puller.units import GIB, KIB

PREFIX = "keys/"
VERSION = 1
SLOT_LIMIT = 64 * KIB


class Kdf(msgspec.Struct, frozen=True):
    """Argon2id with its cost. The defaults are RFC 9106's second recommendation: 64 MiB, 3 passes."""

    salt: str
    name: str = "argon2id"
    memory_kib: int = 64 * 1024
    iterations: int = 3
    lanes: int = 4


class KeySlot(msgspec.Struct, frozen=True):
    """One object under ``keys/``."""

    kind: str
    role: str
    kdf: Kdf
    nonce: str
    sealed: str
    created: datetime
    label: str = ""
    version: int = VERSION


def _stretch(kdf: Kdf, password: str) -> bytes:
    if kdf.memory_kib > 4 * GIB // KIB or kdf.iterations > 64 or kdf.lanes > 64:
        raise DamagedData("a key slot asks for an unreasonable amount of work")
    try:
        argon = Argon2id(
            salt=bytes.fromhex(kdf.salt),
            length=KEY,
            iterations=kdf.iterations,
            lanes=kdf.lanes,
            memory_cost=kdf.memory_kib,
        )
        return argon.derive(password.encode())
    except UnsupportedAlgorithm as error:
        raise UnsupportedFormat("this build of 'cryptography' has no Argon2id") from error
    except ValueError as error:
        raise DamagedData(f"a key slot has impossible parameters: {error}") from error


def _aad(repository_id: bytes, role: str) -> bytes:
    return b"puller slot" + repository_id + role.encode()


def add_password(store: Store, repository_id: bytes, master: bytes, password: str, label: str) -> str:
    """Put a full slot that ``password`` opens; return its id."""
    kdf, nonce = Kdf(salt=secrets.token_hex(16)), os.urandom(NONCE)
    sealed = AESGCM(_stretch(kdf, password)).encrypt(nonce, master, _aad(repository_id, "full"))
    slot = KeySlot("password", "full", kdf, nonce.hex(), sealed.hex(), datetime.now(UTC), label)
    slot_id = secrets.token_hex(8)
    store.put_new(PREFIX + slot_id, msgspec.json.encode(slot))
    return slot_id


def _load(store: Store, name: str) -> KeySlot:
    try:
        slot = msgspec.json.decode(store.get(name, max_size=SLOT_LIMIT), type=KeySlot)
    except msgspec.MsgspecError as error:
        raise DamagedData(f"{name} is not a key slot: {error}") from error
    if slot.version > VERSION:
        raise UnsupportedFormat(f"{name} has format version {slot.version}; this puller knows {VERSION}")
    return slot


def _try_password(slot: KeySlot, repository_id: bytes, password: str) -> KeyRing | None:
    if slot.kind != "password":
        return None
    try:
        nonce, sealed = bytes.fromhex(slot.nonce), bytes.fromhex(slot.sealed)
        content = AESGCM(_stretch(slot.kdf, password)).decrypt(nonce, sealed, _aad(repository_id, slot.role))
    except InvalidTag:
        return None
    except ValueError as error:
        raise DamagedData(f"a key slot is damaged: {error}") from error
    if slot.role == "full":
        return KeyRing.from_master(repository_id, content)
    return KeyRing.from_backup_only(repository_id, content)


def open_with_password(store: Store, repository_id: bytes, password: str | None) -> KeyRing:
    """The keys that ``password`` opens. Raises WrongKey; one damaged slot does not close the others."""
    if not password:
        raise WrongKey("the repository is encrypted and no password was given")
    damage: DamagedData | None = None
    for info in store.list(PREFIX):
        try:
            ring = _try_password(_load(store, info.key), repository_id, password)
        except DamagedData as error:
            damage = error
            continue
        if ring is not None:
            return ring
    if damage is not None:
        raise damage
    raise WrongKey("no key slot of the repository opens with this password")
