"""What a host remembers of each repository that it has opened: its id, and whether it is encrypted.

``repository.json`` is read before there is a key and nothing vouches for it. Who can write to the store could
put another repository in its place; a host that was here before notices.
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
    """What must not change at one ``address``."""

    address: str
    id: str
    cipher: str

    @classmethod
    def of(cls, descriptor: Descriptor, address: str) -> Identity:
        """The identity of the repository that is at ``address``."""
        return cls(address, descriptor.id, descriptor.cipher)

    @property
    def is_encrypted(self) -> bool:
        """Whether it had a cipher."""
        return self.cipher != "none"


@dataclass(frozen=True, slots=True)
class Replacement:
    """Another repository in the place of one that this host knows."""

    known: Identity
    found: Identity

    @property
    def text(self) -> str:
        """What has changed."""
        was, now = (f"{each.id} ({each.cipher})" for each in (self.known, self.found))
        return (
            f"another repository has replaced the one that this host knows at {self.known.address}: "
            f"it was {was} and is {now}"
        )

    @property
    def advice(self) -> str:
        """What to do."""
        path = memory_of(self.known.address)
        return f"Find out who changed it. If it was you, delete {path} to have this host forget the old one."


def compare(descriptor: Descriptor, address: str) -> Replacement | None:
    """What differs from what this host remembers, if it remembers anything."""
    known, found = recall(address), Identity.of(descriptor, address)
    return None if known is None or known == found else Replacement(known, found)


def memory_of(address: str) -> Path:
    """The file that remembers what was at ``address``. Raises OSError if this user has no cache."""
    return cache_directory(_FOLDER) / f"{blake3(address.encode()).hexdigest(16)}.json"


def recall(address: str) -> Identity | None:
    """What was at ``address`` when this host was there last; None if it does not remember."""
    try:
        with memory_of(address).open("rb") as file:
            known = msgspec.json.decode(file.read(_LIMIT), type=Identity)
    except (OSError, msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return known if known.address == address else None


def remember(identity: Identity) -> None:
    """Keep ``identity`` for the next time, if this user has a cache."""
    with suppress(OSError):
        path = memory_of(identity.address)
        path.parent.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        fresh = path.with_suffix(f".{os.getpid()}")
        fresh.write_bytes(msgspec.json.encode(identity))
        fresh.chmod(0o600)
        fresh.rename(path)
