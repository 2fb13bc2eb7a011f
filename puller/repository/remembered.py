"""A host's memory of each repository that it has opened: its id, and whether it is encrypted.

``repository.json`` is read before there is a key, so it is not authenticated. A writer of the store could
replace the repository by another one; a host that has opened it before notices that.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
from blake3 import blake3

from puller.host.folders import cache_directory
from puller.repository.format.descriptor import Descriptor
from puller.units import KIB

_FOLDER = "repositories"
_LIMIT = 64 * KIB


class Identity(msgspec.Struct, frozen=True):
    """Facts that must not change at one ``address``."""

    address: str
    id: str
    cipher: str
    slot: str = ""
    """Id of the key slot that was opened last, to ask for it at once. Nothing relies on it."""

    @classmethod
    def of(cls, descriptor: Descriptor, address: str, slot: str = "") -> Identity:
        """Return the identity of the repository at ``address``."""
        return cls(address, descriptor.id, descriptor.cipher, slot)

    @property
    def is_encrypted(self) -> bool:
        """Whether it has a cipher."""
        return self.cipher != "none"


_IDENTITIES = msgspec.json.Decoder(Identity)


@dataclass(frozen=True, slots=True)
class Replacement:
    """Another repository in the place of one that this host knows."""

    known: Identity
    found: Identity

    @property
    def text(self) -> str:
        """The change, as a message."""
        was, now = (f"{each.id} ({each.cipher})" for each in (self.known, self.found))
        return (
            f"another repository has replaced the one that this host knows at {self.known.address}: "
            f"it was {was} and is {now}"
        )

    @property
    def advice(self) -> str:
        """Advice for the user."""
        path = memory_of(self.known.address)
        return f"Find out who changed it. If you did, delete {path} to make this host forget the old one."


def compare(descriptor: Descriptor, address: str) -> Replacement | None:
    """Return the difference from this host's memory, if there is one."""
    known, found = recall(address), Identity.of(descriptor, address)
    same = known is None or (known.id, known.cipher) == (found.id, found.cipher)
    return None if known is None or same else Replacement(known, found)


def memory_of(address: str) -> Path:
    """Return the file with the identity at ``address``. Raises OSError if this user has no cache."""
    return cache_directory(_FOLDER) / f"{blake3(address.encode()).hexdigest(16)}.json"


def recall(address: str) -> Identity | None:
    """Return the identity last seen at ``address``; None if this host has none."""
    try:
        with memory_of(address).open("rb") as file:
            known = _IDENTITIES.decode(file.read(_LIMIT))
    except (OSError, msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return known if known.address == address else None


def remember(identity: Identity) -> None:
    """Store ``identity`` for the next time, if this user has a cache."""
    with suppress(OSError):
        path = memory_of(identity.address)
        path.parent.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        fresh = path.with_suffix(f".{os.getpid()}")
        fresh.write_bytes(msgspec.json.encode(identity))
        fresh.chmod(0o600)
        fresh.rename(path)
