"""What a cache of the index has taken in: which index objects, which packs they name, which segments.

Segments name packs by number. A pack that two index objects describe has two numbers, so that what one
of them says ends with it: prune replaces index objects, and a pack, or a slot of it, that only a vanished
one knew may be gone from the store.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from puller.errors import DamagedData
from puller.repository.format.footer import ID, Ids

_MAGIC = b"PULLERCT"
_VERSION = 1
_HEAD = struct.Struct("<8sI16s16sIII")
_DIGEST = 16
_FORGOTTEN = bytes(ID)

STAMP = 44
"""The first bytes of an encoded catalogue, in which no two catalogues are equal."""


@dataclass(frozen=True)
class Catalogue:
    """``sources`` identify index objects, zero bytes where one has vanished; the rest is by pack number.

    ``packs`` are pack ids, ``origins`` index ``sources``, ``alive`` counts the live slots. ``segments``
    are names of 16 bytes.
    """

    sources: tuple[bytes, ...]
    packs: Ids
    origins: NDArray[np.uint32]
    alive: NDArray[np.uint32]
    segments: tuple[bytes, ...]

    @classmethod
    def empty(cls) -> Catalogue:
        """Nothing taken in yet."""
        none = np.zeros(0, np.uint32)
        return cls((), np.zeros((0, ID), np.uint8), none, none, ())

    def __len__(self) -> int:
        """The number of pack numbers."""
        return len(self.origins)

    @cached_property
    def present(self) -> NDArray[np.bool_]:
        """By pack number: whether the index object that gave it is still there."""
        there = np.array([source != _FORGOTTEN for source in self.sources], np.bool_)
        return there[self.origins]

    def keeping(self, listed: Collection[bytes]) -> Catalogue:
        """The catalogue when only ``listed`` index objects are there.

        The numbers of the others stay, so that rows of the segments keep their meaning, but nothing
        names them any more; should such an object come back, it counts as new.
        """
        sources = tuple(source if source in listed else _FORGOTTEN for source in self.sources)
        return self if sources == self.sources else replace(self, sources=sources)

    def extended(self, found: Mapping[bytes, Sequence[tuple[bytes, int]]]) -> Catalogue:
        """With new index objects: for each its packs in order, as pack id and number of live slots."""
        if not found:
            return self
        packs = [pack for named in found.values() for pack in named]
        counts = [len(named) for named in found.values()]
        origins = np.repeat(np.arange(len(found), dtype=np.uint32) + len(self.sources), counts)
        ids = np.frombuffer(b"".join(pack_id for pack_id, _ in packs), np.uint8).reshape(-1, ID)
        return Catalogue(
            (*self.sources, *found),
            np.concatenate([self.packs, ids]),
            np.concatenate([self.origins, origins.astype(np.uint32)]),
            np.concatenate([self.alive, np.array([alive for _, alive in packs], np.uint32)]),
            self.segments,
        )

    def kept_numbers(self) -> NDArray[np.int64]:
        """Each number as it is; -1 where the index object has vanished."""
        return np.where(self.present, np.arange(len(self)), -1)

    def compacted(self) -> tuple[Catalogue, NDArray[np.int64]]:
        """Without what has vanished; and the new number of each old one, or -1."""
        numbers = np.where(self.present, np.cumsum(self.present) - 1, -1)
        sources = [number for number, source in enumerate(self.sources) if source != _FORGOTTEN]
        places = np.zeros(len(self.sources), np.uint32)
        places[sources] = np.arange(len(sources))
        kept = Catalogue(
            tuple(self.sources[number] for number in sources),
            self.packs[self.present],
            places[self.origins[self.present]],
            self.alive[self.present],
            self.segments,
        )
        return kept, numbers

    def is_wasteful(self, rows: int) -> bool:
        """Whether much of the segments' ``rows``, or of the numbers, means nothing any more."""
        useful = int(self.alive[self.present].sum(dtype=np.int64))
        return 4 * (rows - useful) > rows or 2 * int(self.present.sum()) < len(self)

    def live(self, excluded: Collection[bytes]) -> bytes:
        """By pack number: 1 where a row may be believed, else 0.

        Not those of vanished index objects and of ``excluded`` packs. Where index objects that are
        there disagree about a pack, only the one with the fewest live slots is right: it was written
        when prune compacted the pack.
        """
        least = _least(self.packs, np.where(self.present, self.alive, np.iinfo(np.uint32).max))
        live: NDArray[np.bool_] = self.present & (self.alive == least)
        if excluded:
            live &= np.array([pack.tobytes() not in excluded for pack in self.packs], np.bool_)
        return bytes(live.tobytes())

    def encode(self, repository_id: bytes) -> bytes:
        """The catalogue as a file's content. Each call gives it another stamp."""
        counts = len(self.sources), len(self), len(self.segments)
        content = b"".join(
            (
                _HEAD.pack(_MAGIC, _VERSION, os.urandom(16), repository_id, *counts),
                *self.sources,
                self.packs.tobytes(),
                self.origins.astype("<u4").tobytes(),
                self.alive.astype("<u4").tobytes(),
                *self.segments,
            )
        )
        return content + blake3(content).digest(_DIGEST)

    @classmethod
    def decode(cls, content: bytes, repository_id: bytes) -> Catalogue:
        """Parse what ``encode`` gave. Raises DamagedData."""
        body, digest = content[:-_DIGEST], content[-_DIGEST:]
        if len(body) < _HEAD.size or blake3(body).digest(_DIGEST) != digest:
            raise DamagedData("the catalogue of the index cache is damaged")
        magic, version, _, found, *counts = _HEAD.unpack_from(body)
        if (magic, version, found) != (_MAGIC, _VERSION, repository_id):
            raise DamagedData("the catalogue of the index cache is of another repository or version")
        return cls._decode_columns(body, *counts)

    @classmethod
    def _decode_columns(cls, body: bytes, sources: int, packs: int, segments: int) -> Catalogue:
        at = _HEAD.size + ID * sources
        return cls(
            _ids(body, _HEAD.size, sources),
            np.frombuffer(body, np.uint8, ID * packs, at).reshape(packs, ID),
            np.frombuffer(body, "<u4", packs, at + ID * packs).astype(np.uint32),
            np.frombuffer(body, "<u4", packs, at + (ID + 4) * packs).astype(np.uint32),
            _ids(body, at + (ID + 8) * packs, segments),
        )


def _ids(body: bytes, start: int, count: int) -> tuple[bytes, ...]:
    return tuple(body[at : at + ID] for at in range(start, start + ID * count, ID))


def _least(packs: Ids, counts: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """For each pack id the least of the counts that stand at the same id."""
    if not len(packs):
        return counts
    halves = np.ascontiguousarray(packs).view(np.uint64)
    order = np.lexsort((halves[:, 0], halves[:, 1]))
    ordered = halves[order]
    starts = np.flatnonzero(np.concatenate([[True], (ordered[1:] != ordered[:-1]).any(axis=1)]))
    least = np.minimum.reduceat(counts[order], starts)
    result = np.empty_like(counts)
    result[order] = np.repeat(least, np.diff(np.append(starts, len(order))))
    return result
