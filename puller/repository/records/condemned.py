"""Condemned slots, which prune found unreachable and will remove (docs/format.md, "Condemned").

A record is written once and never changed. It is either *waiting*: its slots may still become reachable; or
*final*: no later point may ever refer to its slots. Prune removes only slots in final records, so the records
tell a run everything that may be removed while it runs.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from puller.cancelling import CancelScope, Scoped
from puller.errors import DamagedData, ObjectNotFound, UnknownKind, UnsupportedFormat
from puller.repository.format.packname import ID, PackKind
from puller.repository.format.sealing import BOX_LIMIT, Boxes, BoxKind
from puller.store.base import ObjectInfo, Store
from puller.store.parallel import each
from puller.units import MIB

PREFIX = "condemned/"
VERSION = 1

KEPT = 30 * 86400.0
"""Seconds that a final record stays. A run that lasts nearly as long must neither index nor commit."""

ALL = -1
"""The set of all slots, however many a pack has: every bit of a negative number's two's complement."""

RECORD_BYTES = 16 * MIB
"""Approximate length of the JSON of one record. A box may hold more, but all runs read all records."""

_ENTRY_BYTES = 64
"""Length of a pack's entry besides its bitmap, in which a byte is two digits."""

_NAME = re.compile(PREFIX + r"[0-9a-f]{32}")
_KINDS = {"data": PackKind.DATA, "map": PackKind.MAP}
_PARALLEL_READS = 8


@dataclass(frozen=True, slots=True)
class CondemnedSlots:
    """Condemned slots of one pack: bit k of ``slots`` stands for slot k; ALL for the whole pack."""

    kind: PackKind
    slots: int


Condemnations = Mapping[bytes, CondemnedSlots]
"""By pack id."""


@dataclass(frozen=True, slots=True)
class Record:
    """One object. ``modified`` is when it was put, by the store's clock; ``grace`` is in seconds."""

    name: str
    modified: float
    final: bool
    grace: float
    packs: Condemnations


class _Entry(msgspec.Struct, frozen=True):
    kind: str
    slots: str | None = None


class _Body(msgspec.Struct, frozen=True):
    stage: str
    grace: float
    packs: dict[str, _Entry]
    version: int = VERSION


_BODIES = msgspec.json.Decoder(_Body)


def union(parts: Iterable[Condemnations]) -> dict[bytes, CondemnedSlots]:
    """Return the union of the parts."""
    joined: dict[bytes, CondemnedSlots] = {}
    for part in parts:
        for pack_id, sentence in part.items():
            slots = sentence.slots | slots_in(joined, pack_id)
            joined[pack_id] = CondemnedSlots(sentence.kind, slots)
    return joined


def slots_in(packs: Condemnations, pack_id: bytes) -> int:
    """Return the set of the slots of one pack in ``packs``."""
    sentence = packs.get(pack_id)
    return sentence.slots if sentence else 0


def encode(final: bool, grace: float, packs: Condemnations) -> bytes:
    """Return the content of a record's box."""
    entries = {pack_id.hex(): _entry(sentence) for pack_id, sentence in packs.items()}
    return msgspec.json.encode(_Body("final" if final else "waiting", grace, entries))


def _entry(sentence: CondemnedSlots) -> _Entry:
    kind = "data" if sentence.kind is PackKind.DATA else "map"
    if sentence.slots == ALL:
        return _Entry(kind)
    content = sentence.slots.to_bytes(-(-sentence.slots.bit_length() // 8), "little")
    return _Entry(kind, content.hex())


def decode(content: bytes, info: ObjectInfo) -> Record:
    """Parse the content of a record's box. Raises DamagedData or UnsupportedFormat."""
    try:
        body = _BODIES.decode(content)
        if body.version > VERSION or body.stage not in {"waiting", "final"}:
            raise UnsupportedFormat(f"{info.key} has a newer format than this puller supports")
        packs = dict(_sentence(text, entry) for text, entry in body.packs.items())
    except (msgspec.MsgspecError, ValueError, KeyError, RecursionError) as error:
        raise DamagedData(f"{info.key} is damaged: {error}") from error
    return Record(info.key, info.modified, body.stage == "final", body.grace, packs)


def _sentence(text: str, entry: _Entry) -> tuple[bytes, CondemnedSlots]:
    pack_id = bytes.fromhex(text)
    if len(pack_id) != ID:
        raise ValueError(f"{text!r} is not the id of a pack")
    slots = ALL if entry.slots is None else int.from_bytes(bytes.fromhex(entry.slots), "little")
    return pack_id, CondemnedSlots(_KINDS[entry.kind], slots)


class Condemned(Scoped):
    """The records of one repository."""

    def __init__(self, store: Store, boxes: Boxes) -> None:
        self._store = store
        self.scope = store.scope
        self._boxes = boxes

    def listed(self) -> list[ObjectInfo]:
        """Return the existing records, without reading them."""
        return [info for info in self._store.list(PREFIX) if info.size and _NAME.fullmatch(info.key)]

    def read(self, infos: Iterable[ObjectInfo]) -> list[Record]:
        """Return the records, without those that were deleted since the listing or are of a later kind.

        Raises DamagedData: without a record it is unknown what will be removed.
        """
        found = each(self.scope, self._read, infos, _PARALLEL_READS)
        return [record for record in found if record is not None]

    def _read(self, scope: CancelScope, info: ObjectInfo) -> Record | None:
        try:
            box = self._store.within(scope).get(info.key, max_size=BOX_LIMIT)
        except ObjectNotFound:
            return None
        try:
            content = self._boxes.unpack(BoxKind.CONDEMNED, info.key, box)
        except UnknownKind:
            return None
        return decode(content, info)

    def put(self, final: bool, grace: float, packs: Condemnations) -> None:
        """Write ``packs`` as new records, durable when this returns; nothing if there are none."""
        for part in _parts(packs):
            name = PREFIX + secrets.token_hex(ID)
            content = encode(final, grace, part)
            self._store.put_new(name, self._boxes.pack(BoxKind.CONDEMNED, name, content))

    def delete(self, records: Sequence[Record]) -> None:
        """Delete the records."""
        self._store.delete([record.name for record in records])


def _parts(packs: Condemnations) -> Iterator[dict[bytes, CondemnedSlots]]:
    """Split ``packs`` by size: a box has a limit, and packs may have many slots."""
    part: dict[bytes, CondemnedSlots] = {}
    size = 0
    for pack_id, sentence in packs.items():
        part[pack_id] = sentence
        size += _ENTRY_BYTES + max(0, sentence.slots).bit_length() // 4
        if size >= RECORD_BYTES:
            yield part
            part, size = {}, 0
    if part:
        yield part
