"""``repository.json``: the facts about a repository that need no key."""

from __future__ import annotations

import re
import secrets
from datetime import UTC, datetime

import msgspec
from msgspec import UNSET, UnsetType

from puller.errors import DamagedData, NoRepository, ObjectNotFound, UnsupportedFormat
from puller.repository.format.sealing import Cipher
from puller.store.base import Store
from puller.units import CHUNK, KIB, PAGE_CHUNKS

NAME = "repository.json"
VERSION = 1
_LIMIT = 64 * KIB
_ID = re.compile(r"[0-9a-f]{32}")
_CIPHERS = {"none": Cipher.NONE, "aes-256-gcm": Cipher.AES_256_GCM}


class Descriptor(msgspec.Struct, frozen=True):
    """The descriptor; see docs/format.md."""

    id: str
    created: datetime
    cipher: str
    conditional_writes: bool
    format: str = "puller"
    version: int = VERSION
    chunk_size: int = CHUNK
    page_chunks: int = PAGE_CHUNKS
    family: str | UnsetType = UNSET

    @property
    def id_bytes(self) -> bytes:
        """The repository's id, 16 bytes."""
        return bytes.fromhex(self.id)

    @property
    def family_bytes(self) -> bytes:
        """The id of the repository whose master secret this one has, 16 bytes; mostly its own."""
        return self.id_bytes if self.family is UNSET else bytes.fromhex(self.family)

    @property
    def cipher_kind(self) -> Cipher:
        """The cipher."""
        return _CIPHERS[self.cipher]


_DESCRIPTORS = msgspec.json.Decoder(Descriptor)


class _Head(msgspec.Struct):
    """Members of every version of the format."""

    format: str
    version: int


_HEADS = msgspec.json.Decoder(_Head)


def new(cipher: Cipher, conditional_writes: bool, family: bytes | None = None) -> Descriptor:
    """Return a descriptor with a new id, of a new ``family`` unless one is given."""
    name = next(name for name, kind in _CIPHERS.items() if kind is cipher)
    return Descriptor(
        secrets.token_hex(16),
        datetime.now(UTC).replace(microsecond=0),
        name,
        conditional_writes,
        family=UNSET if family is None else family.hex(),
    )


def decode(content: bytes, url: str) -> Descriptor:
    """Parse and validate. Raises NoRepository, UnsupportedFormat or DamagedData."""
    try:
        head = _HEADS.decode(content)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise NoRepository(f"no repository at {url}: its {NAME} is not puller's") from error
    if head.format != "puller":
        raise NoRepository(f"no repository at {url}: its {NAME} is of '{head.format}', not of puller")
    if head.version > VERSION:
        raise UnsupportedFormat(f"{url} has format version {head.version}; this puller supports {VERSION}")
    try:
        return _validated(_DESCRIPTORS.decode(content), url)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise DamagedData(f"{NAME} of {url} is damaged: {error}") from error


def _validated(descriptor: Descriptor, url: str) -> Descriptor:
    if not _ID.fullmatch(descriptor.id) or descriptor.cipher not in _CIPHERS:
        raise ValueError(f"invalid id {descriptor.id!r} or cipher {descriptor.cipher!r}")
    if descriptor.family is not UNSET and not _ID.fullmatch(descriptor.family):
        raise ValueError(f"invalid family {descriptor.family!r}")
    if (descriptor.chunk_size, descriptor.page_chunks) != (CHUNK, PAGE_CHUNKS):
        raise UnsupportedFormat(
            f"{url} uses chunks of {descriptor.chunk_size} bytes; this puller supports {CHUNK}"
        )
    return descriptor


def load(store: Store) -> Descriptor:
    """Read the descriptor. Raises NoRepository if there is none."""
    try:
        return decode(store.get(NAME, max_size=_LIMIT), store.url)
    except ObjectNotFound as error:
        raise NoRepository(f"no repository at {store.url}") from error


def save(store: Store, descriptor: Descriptor) -> None:
    """Write the descriptor, only if there is none. Raises ObjectExists."""
    store.put_new(NAME, msgspec.json.format(msgspec.json.encode(descriptor), indent=1))
