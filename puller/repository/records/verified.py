"""Verified packs, which checks have read as a whole and found intact (docs/format.md, "Verified").

Only checks use these records, to avoid repeated reads. Times are the store's.
"""

from __future__ import annotations

import re
import secrets
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import msgspec

from puller.cancelling import CancelScope, Scoped
from puller.errors import DamagedData, ObjectExists, ObjectNotFound, StoreDenied
from puller.repository.format.packname import ID, MAX_GENERATION
from puller.repository.format.sealing import BOX_LIMIT, Boxes, BoxKind
from puller.store.base import ObjectInfo, Store
from puller.store.parallel import each

PREFIX = "verified/"
VERSION = 1

RECORD_PACKS = 200_000
"""Most packs in a record."""

SMALL = RECORD_PACKS // 2
"""Packs below which prune merges a record with others."""

LEAST = 8
"""Number of small records that is worth a merge."""

_NAME = re.compile(PREFIX + r"[0-9a-f]{32}")
_PARALLEL_READS = 4


@dataclass(frozen=True, slots=True)
class VerifiedPack:
    """One generation of a pack was intact at ``time``, in seconds since the epoch; None until stored."""

    pack_id: bytes
    generation: int
    time: float | None = None


@dataclass(frozen=True, slots=True)
class VerifiedRecord:
    """One object. The times of its ``packs`` are filled in, and none is later than its own."""

    name: str
    modified: float
    packs: tuple[VerifiedPack, ...]


class _Group(msgspec.Struct, frozen=True):
    ids: str
    generation: int = 0
    time: float | None = None


class _Body(msgspec.Struct, frozen=True):
    packs: tuple[_Group, ...]
    version: int = VERSION


_BODIES = msgspec.json.Decoder(_Body)


def encode(packs: Iterable[VerifiedPack]) -> bytes:
    """Return the content of a record's box."""
    groups: defaultdict[tuple[int, float | None], list[str]] = defaultdict(list)
    for pack in packs:
        groups[pack.generation, pack.time].append(pack.pack_id.hex())
    return msgspec.json.encode(_Body(tuple(_Group("".join(ids), *key) for key, ids in groups.items())))


def decode(content: bytes, info: ObjectInfo) -> VerifiedRecord:
    """Parse the content of a record's box. Raises DamagedData."""
    try:
        body = _BODIES.decode(content)
        packs = tuple(pack for group in body.packs for pack in _packs(group, info.modified))
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise DamagedData(f"{info.key} is damaged: {error}") from error
    if body.version > VERSION:
        raise DamagedData(f"{info.key} has a newer format than this puller supports")
    return VerifiedRecord(info.key, info.modified, packs)


def _packs(group: _Group, modified: float) -> Iterator[VerifiedPack]:
    ids = bytes.fromhex(group.ids)
    if len(ids) % ID or not 0 <= group.generation <= MAX_GENERATION:
        raise ValueError("it holds an invalid pack id")
    time = modified if group.time is None else min(group.time, modified)
    return (VerifiedPack(ids[at : at + ID], group.generation, time) for at in range(0, len(ids), ID))


@dataclass(frozen=True, slots=True)
class Tidied:
    """Prune's changes of the records: put ``merged``, then delete ``void``."""

    merged: tuple[VerifiedPack, ...]
    void: tuple[VerifiedRecord, ...]


def tidy(records: Sequence[VerifiedRecord], counts: Callable[[VerifiedPack], bool]) -> Tidied:
    """Find superfluous records, and merge small ones.

    ``counts`` returns whether a pack is stored and was verified later than its damage. Newer records come
    first, so records that could not be deleted are not merged again.
    """
    said: dict[bytes, float] = {}
    void: list[VerifiedRecord] = []
    small: list[tuple[VerifiedRecord, list[VerifiedPack]]] = []
    for record in sorted(records, key=lambda record: -record.modified):
        news = [pack for pack in record.packs if counts(pack) and _is_news(pack, said)]
        said.update((pack.pack_id, pack.time or 0.0) for pack in news)
        if not news:
            void.append(record)
        elif len(record.packs) < SMALL:
            small.append((record, news))
    if len(small) < LEAST:
        return Tidied((), tuple(void))
    # What is met later is of an older record and was verified later, or it were no news.
    latest = {pack.pack_id: pack for _, news in small for pack in news}
    return Tidied(tuple(latest.values()), (*void, *(record for record, _ in small)))


def outlives(pack: VerifiedPack, damaged: Mapping[bytes, float]) -> bool:
    """Return whether a pack was verified after its damage was recorded: ``damaged`` says when, by pack."""
    return pack.pack_id not in damaged or (pack.time or 0.0) > damaged[pack.pack_id]


def _is_news(pack: VerifiedPack, said: Mapping[bytes, float]) -> bool:
    return pack.pack_id not in said or (pack.time or 0.0) > said[pack.pack_id]


class VerifiedPacks(Scoped):
    """The records of one repository."""

    def __init__(self, store: Store, boxes: Boxes) -> None:
        self._store = store
        self.scope = store.scope
        self._boxes = boxes

    def listed(self) -> list[ObjectInfo]:
        """Return the existing records, without reading them."""
        return [info for info in self._store.list(PREFIX) if info.size and _NAME.fullmatch(info.key)]

    def read(self, infos: Iterable[ObjectInfo]) -> list[VerifiedRecord]:
        """Return the readable records; the others are skipped, because no check needs them."""
        found = each(self.scope, self._read, infos, _PARALLEL_READS)
        return [record for record in found if record is not None]

    def _read(self, scope: CancelScope, info: ObjectInfo) -> VerifiedRecord | None:
        try:
            box = self._store.within(scope).get(info.key, max_size=BOX_LIMIT)
            return decode(self._boxes.unpack(BoxKind.VERIFIED, info.key, box), info)
        except (ObjectNotFound, DamagedData):
            return None

    def put(self, packs: Sequence[VerifiedPack]) -> list[ObjectInfo]:
        """Write records, durable when this returns, and return them; none without ``packs``."""
        starts = range(0, len(packs), RECORD_PACKS)
        return [self._write(packs[start : start + RECORD_PACKS]) for start in starts]

    def put_as(self, token: str, packs: Sequence[VerifiedPack]) -> None:
        """Write a record that ``find`` finds by ``token``, 32 hexadecimal digits; none without ``packs``."""
        try:
            if packs:
                name = PREFIX + token
                self._store.put_new(name, self._boxes.pack(BoxKind.VERIFIED, name, encode(packs)))
        except ObjectExists:  # whoever has the same token was as fast
            self.put(packs)

    def find(self, token: str) -> VerifiedRecord | None:
        """Return the record of ``put_as``, or None: prune merges records."""
        try:
            return self._read(self.scope, self._store.stat(PREFIX + token))
        except ObjectNotFound:
            return None

    def now(self) -> float:
        """Return the store's time, measured with an empty record that is deleted again."""
        info = self._write(())
        with suppress(StoreDenied):
            self._store.delete([info.key])
        return info.modified

    def _write(self, packs: Sequence[VerifiedPack]) -> ObjectInfo:
        try:
            return self._write_once(packs)
        except ObjectNotFound:  # a prune has tidied it away before its time was known
            return self._write_once(packs)

    def _write_once(self, packs: Sequence[VerifiedPack]) -> ObjectInfo:
        name = PREFIX + secrets.token_hex(ID)
        self._store.put_new(name, self._boxes.pack(BoxKind.VERIFIED, name, encode(packs)))
        return self._store.stat(name)

    def delete(self, records: Sequence[VerifiedRecord]) -> None:
        """Delete the records."""
        self._store.delete([record.name for record in records])
