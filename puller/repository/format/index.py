"""Index objects: copies of the footers of packs (docs/format.md, "Index").

What they say is never needed to restore anything: an index may be missing, repeat itself, or be rebuilt
from the packs at any time.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from puller.errors import DamagedData
from puller.repository.format.footer import Footer, PackKind

_RECORD = struct.Struct("<16sBQI")


@dataclass(frozen=True)
class IndexedPack:
    """What an index says of one pack; ``size`` is the object's, in bytes."""

    kind: PackKind
    pack_id: bytes
    size: int
    footer: Footer


def encode(packs: Iterable[IndexedPack]) -> bytes:
    """The content of an index object."""
    return b"".join(
        _RECORD.pack(pack.pack_id, pack.kind, pack.size, pack.footer.count) + pack.footer.encode()
        for pack in packs
    )


def decode(content: bytes) -> Iterator[IndexedPack]:
    """Parse the content of an index object. Raises DamagedData."""
    at = 0
    while at < len(content):
        if at + _RECORD.size > len(content):
            raise DamagedData("an index is cut short")
        pack_id, kind, size, count = _RECORD.unpack_from(content, at)
        at += _RECORD.size
        length = Footer.encoded_length(content, at, count)
        if kind not in tuple(PackKind) or at + length > len(content):
            raise DamagedData("an index describes a pack that cannot be")
        yield IndexedPack(PackKind(kind), pack_id, size, Footer.decode(content[at : at + length], count))
        at += length
