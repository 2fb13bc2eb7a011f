"""Damaged packs, which a check records for all later backups (docs/format.md, "Damaged").

A run does not refer to content in such a pack, but stores it again. So the next backup on any host repairs
the damage, as far as the live disks still have the lost data.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

import msgspec

from puller.cancelling import Scoped
from puller.errors import DamagedData, ObjectNotFound
from puller.repository.format.packname import ID
from puller.repository.format.sealing import BOX_LIMIT, Boxes, BoxKind
from puller.store.base import ObjectInfo, Store

PREFIX = "damaged/"
VERSION = 1

_NAME = re.compile(PREFIX + r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class DamageRecord:
    """One object, and the ids of the packs that it names. ``modified`` is by the store's clock."""

    name: str
    packs: frozenset[bytes]
    modified: float = 0.0


class _Body(msgspec.Struct, frozen=True):
    packs: tuple[str, ...]
    version: int = VERSION


_BODIES = msgspec.json.Decoder(_Body)


def union(records: Iterable[DamageRecord]) -> frozenset[bytes]:
    """Return all packs in the records."""
    return frozenset().union(*(record.packs for record in records))


def since(records: Iterable[DamageRecord]) -> dict[bytes, float]:
    """Return by pack when the newest record with it was put."""
    found: dict[bytes, float] = {}
    for record in records:
        for pack in record.packs:
            found[pack] = max(record.modified, found.get(pack, record.modified))
    return found


def encode(packs: Collection[bytes]) -> bytes:
    """Return the content of a record's box."""
    return msgspec.json.encode(_Body(tuple(sorted(pack.hex() for pack in packs))))


def decode(content: bytes, name: str) -> DamageRecord:
    """Parse the content of a record's box. Raises DamagedData."""
    try:
        body = _BODIES.decode(content)
        packs = frozenset(bytes.fromhex(text) for text in body.packs)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise DamagedData(f"{name} is damaged: {error}") from error
    if body.version > VERSION or any(len(pack) != ID for pack in packs):
        raise DamagedData(f"{name} is damaged or of a newer format: it holds an invalid pack id")
    return DamageRecord(name, packs)


class DamagedPacks(Scoped):
    """The records of one repository."""

    def __init__(self, store: Store, boxes: Boxes) -> None:
        self._store = store
        self.scope = store.scope
        self._boxes = boxes

    def read(self) -> list[DamageRecord]:
        """Return the readable records; the others are skipped, because no run needs them."""
        infos = [info for info in self._store.list(PREFIX) if info.size and _NAME.fullmatch(info.key)]
        return [record for record in map(self._read, infos) if record is not None]

    def _read(self, info: ObjectInfo) -> DamageRecord | None:
        try:
            box = self._store.get(info.key, max_size=BOX_LIMIT)
            record = decode(self._boxes.unpack(BoxKind.DAMAGED, info.key, box), info.key)
            return replace(record, modified=info.modified)
        except (ObjectNotFound, DamagedData):
            return None

    def put(self, packs: Collection[bytes]) -> None:
        """Write a record, durable when this returns; nothing if there are no ``packs``."""
        if packs:
            name = PREFIX + secrets.token_hex(ID)
            self._store.put_new(name, self._boxes.pack(BoxKind.DAMAGED, name, encode(packs)))

    def delete(self, records: Sequence[DamageRecord]) -> None:
        """Delete the records."""
        self._store.delete([record.name for record in records])
