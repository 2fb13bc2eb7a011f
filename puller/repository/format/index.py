"""Index objects: copies of the footers of packs (docs/format.md, "Index").

What they say is never needed to restore anything: an index may be missing, repeat itself, or be rebuilt
from the packs at any time.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from puller.errors import DamagedData
from puller.repository.format.footer import ID, Footer, PackKind
from puller.repository.format.sealing import KEY_BOX

_RECORD = struct.Struct("<16sBIQI")
_FOOTER_ROW = ID + 5


@dataclass(frozen=True)
class IndexedPack:
    """What an index says of one pack; ``size`` is the object's of this ``generation``, in bytes."""

    kind: PackKind
    pack_id: bytes
    size: int
    footer: Footer
    generation: int = 0


def encode(packs: Iterable[IndexedPack]) -> bytes:
    """The content of an index object."""
    return b"".join(
        _RECORD.pack(pack.pack_id, pack.kind, pack.generation, pack.size, pack.footer.count)
        + pack.footer.encode()
        for pack in packs
    )


def decode(content: bytes) -> Iterator[IndexedPack]:
    """Parse the content of an index object. Raises DamagedData."""
    at = 0
    while at < len(content):
        if at + _RECORD.size > len(content):
            raise DamagedData("an index is cut short")
        pack_id, kind, generation, size, count = _RECORD.unpack_from(content, at)
        at += _RECORD.size
        length = KEY_BOX + _FOOTER_ROW * count
        if kind not in tuple(PackKind) or at + length > len(content):
            raise DamagedData("an index describes a pack that cannot be")
        footer = Footer.decode(content[at : at + length], count)
        yield IndexedPack(PackKind(kind), pack_id, size, footer, generation)
        at += length
