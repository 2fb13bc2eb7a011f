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
from puller.errors import DamagedData, ObjectNotFound, StoreDenied
from puller.repository.format.footer import ID, MAX_GENERATION
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
class Proof:
    """One generation of a pack was intact at ``time``, in seconds since the epoch; None until stored."""

    pack_id: bytes
    generation: int
    time: float | None = None


@dataclass(frozen=True, slots=True)
class VerifiedRecord:
    """One object. The times of its ``proofs`` are filled in, and none is later than its own."""

    name: str
    modified: float
    proofs: tuple[Proof, ...]


class _Group(msgspec.Struct, frozen=True):
    ids: str
    generation: int = 0
    time: float | None = None


class _Body(msgspec.Struct, frozen=True):
    packs: tuple[_Group, ...]
    version: int = VERSION


def encode(proofs: Iterable[Proof]) -> bytes:
    """Return the content of a record's box."""
    groups: defaultdict[tuple[int, float | None], list[str]] = defaultdict(list)
    for proof in proofs:
        groups[proof.generation, proof.time].append(proof.pack_id.hex())
    return msgspec.json.encode(_Body(tuple(_Group("".join(ids), *key) for key, ids in groups.items())))


def decode(content: bytes, info: ObjectInfo) -> VerifiedRecord:
    """Parse the content of a record's box. Raises DamagedData."""
    try:
        body = msgspec.json.decode(content, type=_Body)
        proofs = tuple(proof for group in body.packs for proof in _proofs(group, info.modified))
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise DamagedData(f"{info.key} is damaged: {error}") from error
    if body.version > VERSION:
        raise DamagedData(f"{info.key} has a newer format than this puller supports")
    return VerifiedRecord(info.key, info.modified, proofs)


def _proofs(group: _Group, modified: float) -> Iterator[Proof]:
    ids = bytes.fromhex(group.ids)
    if len(ids) % ID or not 0 <= group.generation <= MAX_GENERATION:
        raise ValueError("it holds an invalid pack id")
    time = modified if group.time is None else min(group.time, modified)
    return (Proof(ids[at : at + ID], group.generation, time) for at in range(0, len(ids), ID))


@dataclass(frozen=True, slots=True)
class Tidied:
    """Prune's changes of the records: put ``merged``, then delete ``void``."""

    merged: tuple[Proof, ...]
    void: tuple[VerifiedRecord, ...]


def tidy(records: Sequence[VerifiedRecord], counts: Callable[[Proof], bool]) -> Tidied:
    """Find superfluous records, and merge small ones.

    ``counts`` returns whether a proof is of a stored pack and later than its damage. Newer records come
    first, so records that could not be deleted are not merged again.
    """
    said: dict[bytes, float] = {}
    void: list[VerifiedRecord] = []
    small: list[tuple[VerifiedRecord, list[Proof]]] = []
    for record in sorted(records, key=lambda record: -record.modified):
        news = [proof for proof in record.proofs if counts(proof) and _is_news(proof, said)]
        said.update((proof.pack_id, proof.time or 0.0) for proof in news)
        if not news:
            void.append(record)
        elif len(record.proofs) < SMALL:
            small.append((record, news))
    if len(small) < LEAST:
        return Tidied((), tuple(void))
    # What is met later is of an older record and was verified later, or it were no news.
    latest = {proof.pack_id: proof for _, news in small for proof in news}
    return Tidied(tuple(latest.values()), (*void, *(record for record, _ in small)))


def outlives(proof: Proof, damaged: Mapping[bytes, float]) -> bool:
    """Return whether a proof is later than the recorded damage: ``damaged`` says since when, by pack."""
    return proof.pack_id not in damaged or (proof.time or 0.0) > damaged[proof.pack_id]


def _is_news(proof: Proof, said: Mapping[bytes, float]) -> bool:
    return proof.pack_id not in said or (proof.time or 0.0) > said[proof.pack_id]


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

    def put(self, proofs: Sequence[Proof]) -> list[ObjectInfo]:
        """Write records, durable when this returns, and return them; none without ``proofs``."""
        starts = range(0, len(proofs), RECORD_PACKS)
        return [self._write(proofs[start : start + RECORD_PACKS]) for start in starts]

    def now(self) -> float:
        """Return the store's time, measured with an empty record that is deleted again."""
        info = self._write(())
        with suppress(StoreDenied):
            self._store.delete([info.key])
        return info.modified

    def _write(self, proofs: Sequence[Proof]) -> ObjectInfo:
        try:
            return self._write_once(proofs)
        except ObjectNotFound:  # a prune has tidied it away before its time was known
            return self._write_once(proofs)

    def _write_once(self, proofs: Sequence[Proof]) -> ObjectInfo:
        name = PREFIX + secrets.token_hex(ID)
        self._store.put_new(name, self._boxes.pack(BoxKind.VERIFIED, name, encode(proofs)))
        return self._store.stat(name)

    def delete(self, records: Sequence[VerifiedRecord]) -> None:
        """Delete the records."""
        self._store.delete([record.name for record in records])
