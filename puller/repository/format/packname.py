"""The kinds, ids and names of packs (docs/format.md, "Pack")."""

from __future__ import annotations

import enum
import re

from puller.units import CHUNK, MIB

ID = 16
"""Bytes of the id of a pack, and of a chunk."""

MAX_GENERATION = (1 << 32) - 1

MAP_CONTENT_LIMIT = 96 * MIB
"""Bytes. The root of the largest disk takes 88 MiB, if each page is in another map pack."""

_NAME = re.compile(r"(packs|maps)/([0-9a-f]{2})/(\2[0-9a-f]{30})(?:\.([1-9][0-9]{0,9}))?")


class PackKind(enum.IntEnum):
    """Content of a pack's slots."""

    DATA = 1
    MAP = 2

    @property
    def content_limit(self) -> int:
        """Most bytes of a slot's content."""
        return CHUNK if self is PackKind.DATA else MAP_CONTENT_LIMIT

    @property
    def prefix(self) -> str:
        """Prefix of packs of this kind."""
        return "packs/" if self is PackKind.DATA else "maps/"

    def folder(self, pack_id: bytes) -> str:
        """Return the prefix of all generations of a pack, which other packs share."""
        return f"{self.prefix}{pack_id[:1].hex()}/"

    def object_name(self, pack_id: bytes, generation: int = 0) -> str:
        """Return the object's name."""
        name = self.folder(pack_id) + pack_id.hex()
        return f"{name}.{generation}" if generation else name


def parse_pack_name(name: str) -> tuple[PackKind, bytes, int] | None:
    """Return kind, id and generation of a pack from its object's name; None if it is foreign."""
    match = _NAME.fullmatch(name)
    if match is None or int(match[4] or 0) > MAX_GENERATION:
        return None
    kind = PackKind.DATA if match[1] == "packs" else PackKind.MAP
    return kind, bytes.fromhex(match[3]), int(match[4] or 0)
