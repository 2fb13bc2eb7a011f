"""Keys: the passwords and key files that open a repository, listed, added and removed.

An open repository does not keep the master secret, so adding a key opens a slot again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from math import inf

from puller.errors import DamagedData, KeyNotHeld, UsageError
from puller.repository.format.sealing import Cipher
from puller.repository.keys import key_slots as slots
from puller.repository.keys.key_slots import BACKUP_ONLY, FULL, KeySlot, Secret
from puller.repository.repository import Repository

LABEL_LIMIT = 200
"""Most characters of a label: a slot must stay far below the size limit of readers."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key of the repository. Of a damaged key only ``key``, its id, and ``damage`` are known.

    ``kind`` is ``password`` or ``key-file``, ``role`` is ``full`` or ``backup-only``. ``opened`` is true for
    the key that the password or key file given to ``list_keys`` opens.
    """

    key: str
    kind: str | None = None
    role: str | None = None
    label: str | None = None
    created: datetime | None = None
    opened: bool = False
    damage: str | None = None


def check_full(repository: Repository) -> None:
    """Raise UsageError if the repository has no keys, KeyNotHeld if a backup-only one opened it."""
    _check_encrypted(repository)
    if not repository.keys.can_read_data:
        raise KeyNotHeld("cannot add or remove keys with a backup-only key")


def _check_encrypted(repository: Repository) -> None:
    if repository.keys.cipher is Cipher.NONE:
        raise UsageError(
            f"the repository at {repository.store.url} is not encrypted, so it has no keys",
            advice="Create a new repository to use encryption: whoever can read the store can read this one.",
        )


def list_keys(repository: Repository, secret: Secret | None) -> list[Key]:
    """Return all keys, oldest first. Raises UsageError without encryption, WrongKey."""
    _check_encrypted(repository)
    store, repository_id = repository.store, repository.descriptor.id_bytes
    family = repository.descriptor.family_bytes
    opened = None if secret is None else slots.open_slot(store, repository_id, family, secret).slot_id
    return sorted(
        (_key(name, slot, opened) for name, slot in slots.list_slots(store, repository_id)), key=_by_age
    )


def _by_age(key: Key) -> tuple[float, str]:
    return (inf if key.created is None else key.created.timestamp()), key.key


def _key(slot_id: str, slot: KeySlot | DamagedData, opened: str | None) -> Key:
    if isinstance(slot, DamagedData):
        return Key(slot_id, damage=slot.message)
    return Key(slot_id, slot.kind, slot.role, slot.label, slot.created, slot_id == opened)


def add_key(repository: Repository, current: Secret | None, new: Secret, role: str, label: str) -> str:
    """Add the secret ``new`` as a key; return the key's id.

    ``current`` must open a key of the full role. Raises UsageError, KeyNotHeld, WrongKey, StoreError.
    """
    check_full(repository)
    _check_words(role, label)
    descriptor = repository.descriptor
    opened = slots.open_slot(repository.store, descriptor.id_bytes, descriptor.family_bytes, current)
    return slots.add_slot(repository.lasting(), opened, new, role, label)


def _check_words(role: str, label: str) -> None:
    if role not in (FULL, BACKUP_ONLY):
        raise UsageError(f"invalid role '{role}' of a key", advice=f"Use {FULL} or {BACKUP_ONLY}.")
    if len(label) > LABEL_LIMIT:
        raise UsageError(
            f"the key's label has {len(label)} characters, but {LABEL_LIMIT} are allowed",
            advice="Shorten the label.",
        )
    try:
        label.encode()
    except UnicodeEncodeError as error:
        raise UsageError("the key's label is not UTF-8", advice="Choose a label of UTF-8 text.") from error


def remove_key(repository: Repository, key: str) -> None:
    """Remove a key by its id. Raises UsageError if it does not exist or is the last of the full role.

    Also UsageError if the repository is not encrypted, KeyNotHeld, StoreError.
    """
    check_full(repository)
    slots.remove_slot(repository.store, repository.descriptor.id_bytes, key)
