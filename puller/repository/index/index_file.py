"""A segment of the index: one file of rows sorted by the prefix of their ids, never changed once written.

::

    | block 2048 | block | … | highest prefix of each block | filter | trailer 56 |

    block:  92 ids | 92 pack numbers | 92 slots | zeros | CRC-32       (4 bytes a number, 2 a slot)

The prefixes tell the block that an id must be in; one positional read fetches it, and a search for the
16 bytes finds the row. Reads were chosen over a mapping by measurement: a mapping finds 0.7 to 1 million
ids a second where reads find 0.4, but it holds the interpreter's lock through page faults (two codec
threads beside it fell to a third of their speed; beside reads they lost nothing), its pages count as
resident, and a file that someone truncates kills the process.

The filter is a bitmap over the leading bits of ids, at least 8 bits a row: most ids that the segment does
not hold cost no read. A row is believed only if the CRC of its block fits, for an address that is wrong
would lose data; an id that is not found is merely stored again.
"""

from __future__ import annotations

import os
import struct
import weakref
import zlib
from collections.abc import Iterable, Sequence

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from puller.errors import DamagedData
from puller.repository.format.footer import ID
from puller.repository.index.rows import Prefixes, Rows, prefixes_of

BLOCK = 2048
BLOCK_ROWS = 92

_IDS = ID * BLOCK_ROWS
_SLOTS_AT = _IDS + 4 * BLOCK_ROWS
_ROWS_END = _SLOTS_AT + 2 * BLOCK_ROWS
_CRC_AT = BLOCK - 4
_RESIDUE = 0x2144DF1C
"""CRC-32 of any content with its own CRC-32 behind it, from whatever value it was begun."""

_MAGIC = b"PULLERSG"
_VERSION = 1
_TRAILER = struct.Struct("<8sIIQ16s16s")
_DIGEST = 16
_NUMBER = struct.Struct("<I")
_SLOT = struct.Struct("<H")

_MASKS = np.left_shift(1, np.arange(8, dtype=np.uint8), dtype=np.uint8)

Hits = tuple[list[int], list[int], list[int]]
"""Columns: positions among the ids that were asked for, pack numbers, slots."""


class IndexFile:
    """An open segment. Its file is closed when nobody holds the object any more. Safe for many threads."""

    def __init__(
        self, descriptor: int, name: bytes, rows: int, uppers: Prefixes, bits: NDArray[np.uint8]
    ) -> None:
        self.descriptor = descriptor
        self.name = name
        self.damaged = False
        self._rows = rows
        self._uppers = uppers
        self._bits = bits
        self._shift = np.uint64(64 - _exponent(8 * len(bits)))
        self._seed = zlib.crc32(name)
        weakref.finalize(self, os.close, descriptor)

    @property
    def uppers(self) -> Prefixes:
        """The highest prefix of each block."""
        return self._uppers

    def __len__(self) -> int:
        return self._rows

    def find(self, keys: Sequence[bytes], prefixes: Prefixes, live: bytes | None) -> Hits:
        """Look for ``keys``, ids whose prefixes are given.

        A row counts only if ``live`` is None or is not 0 at the row's pack number. A block that cannot
        be read sets ``damaged`` and counts as not holding the id.
        """
        hits: Hits = [], [], []
        bits = prefixes >> self._shift
        (likely,) = (self._bits[bits >> 3] & _MASKS[bits & 7]).nonzero()
        if not len(likely):
            return hits
        blocks = self._uppers.searchsorted(prefixes[likely]).tolist()
        for position, block in zip(likely.tolist(), blocks, strict=True):
            key = keys[position]
            row = self._find_in(block, key, live) or self._find_after(block, key, live)
            if row is not None:
                hits[0].append(position)
                hits[1].append(row[0])
                hits[2].append(row[1])
        return hits

    def _find_after(self, block: int, key: bytes, live: bytes | None) -> tuple[int, int] | None:
        """Search the blocks after ``block``, as long as the prefix goes on."""
        prefix = int.from_bytes(key[:8], "little")
        while block < len(self._uppers) and int(self._uppers[block]) == prefix:
            block += 1
            row = self._find_in(block, key, live)
            if row is not None:
                return row
        return None

    def _find_in(self, block: int, key: bytes, live: bytes | None) -> tuple[int, int] | None:
        rows = min(BLOCK_ROWS, self._rows - block * BLOCK_ROWS)
        content = self._block(block) if rows > 0 else b""
        at = content.find(key, 0, ID * rows)
        while at >= 0:
            if at % ID == 0:
                row = self._row(content, at // ID)
                if row is None or live is None or live[row[0]]:
                    return row
            at = content.find(key, at + 1, ID * rows)
        return None

    def _block(self, block: int) -> bytes:
        try:
            return os.pread(self.descriptor, BLOCK, block * BLOCK)
        except OSError:
            self.damaged = True
            return b""

    def _row(self, content: bytes, place: int) -> tuple[int, int] | None:
        """Pack number and slot of a row of a block; None if the block is damaged."""
        if zlib.crc32(content, self._seed) != _RESIDUE:
            self.damaged = True
            return None
        (number,) = _NUMBER.unpack_from(content, _IDS + 4 * place)
        return number, _SLOT.unpack_from(content, _SLOTS_AT + 2 * place)[0]

    def rows(self, first: int, stop: int) -> Rows:
        """The rows of blocks first … stop - 1. Raises DamagedData, OSError."""
        content = os.pread(self.descriptor, (stop - first) * BLOCK, first * BLOCK)
        starts = range(0, (stop - first) * BLOCK, BLOCK)
        if len(content) != len(starts) * BLOCK or any(
            zlib.crc32(content[at : at + BLOCK], self._seed) != _RESIDUE for at in starts
        ):
            raise DamagedData(f"a block of the index segment {self.name.hex()} is damaged")
        blocks = np.frombuffer(content, np.uint8).reshape(-1, BLOCK)
        rows = Rows(
            blocks[:, :_IDS].reshape(-1, ID),
            np.ascontiguousarray(blocks[:, _IDS:_SLOTS_AT]).view("<u4").ravel(),
            np.ascontiguousarray(blocks[:, _SLOTS_AT:_ROWS_END]).view("<u2").ravel(),
        )
        return rows.cut(0, self._rows - first * BLOCK_ROWS)


def open_segment(descriptor: int, name: bytes) -> IndexFile:
    """The segment in an open file, which it closes later. Raises DamagedData, OSError.

    The blocks are not read now, so opening costs about 1.5 bytes of reading a row.
    """
    size = os.fstat(descriptor).st_size
    trailer = os.pread(descriptor, _TRAILER.size, max(0, size - _TRAILER.size))
    rows, exponent = _check_trailer(trailer, name)
    blocks = -(-rows // BLOCK_ROWS)
    length = 8 * blocks + (1 << exponent >> 3)
    if size != blocks * BLOCK + length + _TRAILER.size:
        raise DamagedData(f"the index segment {name.hex()} is cut short")
    tail = _read(descriptor, blocks * BLOCK, length)
    if _digest(tail, trailer[:-_DIGEST]) != trailer[-_DIGEST:]:
        raise DamagedData(f"the index segment {name.hex()} is damaged")
    _without_readahead(descriptor)
    uppers, bits = np.frombuffer(tail, "<u8", blocks), np.frombuffer(tail, np.uint8, offset=8 * blocks)
    return IndexFile(descriptor, name, rows, uppers, bits)


def _check_trailer(trailer: bytes, name: bytes) -> tuple[int, int]:
    """The number of rows, and the filter's bits as a power of two."""
    if len(trailer) < _TRAILER.size:
        raise DamagedData(f"the index segment {name.hex()} is cut short")
    magic, version, exponent, rows, found, _ = _TRAILER.unpack(trailer)
    if (magic, version, found) != (_MAGIC, _VERSION, name) or exponent > 48 or rows >> 48:
        raise DamagedData(f"the index segment {name.hex()} is not what it should be")
    return rows, exponent


def _without_readahead(descriptor: int) -> None:
    """Neighbouring blocks are not wanted: ids are spread evenly."""
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)


def _exponent(bits: int) -> int:
    """The least e with 2 ** e ≥ ``bits``; a filter has 64 bits at least."""
    return max(6, (bits - 1).bit_length())


def _digest(*parts: bytes | memoryview) -> bytes:
    """Of the tail and of the trailer before its digest."""
    digest = blake3()
    for part in parts:
        digest.update(part)
    return digest.digest(_DIGEST)


def _read(descriptor: int, offset: int, length: int) -> bytes:
    """Like ``pread``, which gives 2 GiB at most."""
    pieces = []
    while length > 0 and (piece := os.pread(descriptor, length, offset)):
        pieces.append(piece)
        offset, length = offset + len(piece), length - len(piece)
    return b"".join(pieces)


def write_segment(descriptor: int, name: bytes, parts: Iterable[Rows], expected: int) -> IndexFile:
    """Write ``parts``, which ascend by prefix, to an empty file; return it as an open segment.

    ``expected`` is the number of rows, or an upper bound that sizes the filter. Raises OSError; the
    descriptor is closed then too.
    """
    try:
        writer = _Writer(descriptor, name, expected)
        for rows in parts:
            writer.add(rows)
        return writer.finish()
    except BaseException:
        os.close(descriptor)
        raise


class _Writer:
    """Gathers rows to whole blocks and writes them."""

    def __init__(self, descriptor: int, name: bytes, expected: int) -> None:
        self._descriptor = descriptor
        self._name = name
        self._seed = zlib.crc32(name)
        self._exponent = _exponent(8 * expected)
        self._bits = np.zeros(1 << self._exponent >> 3, np.uint8)
        self._uppers: list[Prefixes] = []
        self._rest = Rows.none()
        self._rows = 0

    def add(self, rows: Rows) -> None:
        """Append ``rows``."""
        rows = Rows.join([self._rest, rows])
        whole = len(rows) // BLOCK_ROWS * BLOCK_ROWS
        self._rest = rows.cut(whole, len(rows))
        self._put(rows.cut(0, whole))

    def _put(self, rows: Rows) -> None:
        """Write blocks; all but the last of the file are full."""
        if not len(rows):
            return
        prefixes = prefixes_of(rows.ids)
        self._mark(prefixes)
        self._uppers.append(prefixes[BLOCK_ROWS - 1 :: BLOCK_ROWS].copy())  # a view would keep all
        if len(rows) % BLOCK_ROWS:
            self._uppers.append(prefixes[-1:].copy())
        _write(self._descriptor, self._blocks(rows).ravel().data)
        self._rows += len(rows)

    def _blocks(self, rows: Rows) -> NDArray[np.uint8]:
        count = -(-len(rows) // BLOCK_ROWS)
        blocks = np.zeros((count, BLOCK), np.uint8)
        blocks[:, :_IDS] = _by_block(rows.ids, count, _IDS)
        blocks[:, _IDS:_SLOTS_AT] = _by_block(rows.numbers.astype("<u4"), count, 4 * BLOCK_ROWS)
        blocks[:, _SLOTS_AT:_ROWS_END] = _by_block(rows.slots.astype("<u2"), count, 2 * BLOCK_ROWS)
        content = blocks.ravel().data
        starts = range(0, count * BLOCK, BLOCK)
        checks = [zlib.crc32(content[at : at + _CRC_AT], self._seed) for at in starts]
        blocks[:, _CRC_AT:] = np.array(checks, "<u4").view(np.uint8).reshape(count, 4)
        return blocks

    def _mark(self, prefixes: Prefixes) -> None:
        """Set the bits of ascending prefixes: those that share a byte are put together first."""
        bits = prefixes >> np.uint64(64 - self._exponent)
        places = bits >> 3
        starts = np.flatnonzero(np.concatenate([[True], places[1:] != places[:-1]]))
        self._bits[places[starts]] |= np.bitwise_or.reduceat(_MASKS[bits & 7], starts)

    def finish(self) -> IndexFile:
        """Write what is left and the tail."""
        self._put(self._rest)
        uppers = np.concatenate([np.zeros(0, np.uint64), *self._uppers])
        head = _TRAILER.pack(_MAGIC, _VERSION, self._exponent, self._rows, self._name, bytes(_DIGEST))
        tail = uppers.astype("<u8").data.cast("B"), self._bits.data, memoryview(head)[:-_DIGEST]
        for part in (*tail, _digest(*tail)):
            _write(self._descriptor, part)
        _without_readahead(self._descriptor)
        return IndexFile(self._descriptor, self._name, self._rows, uppers, self._bits)


def _by_block(column: NDArray[np.generic], count: int, width: int) -> NDArray[np.uint8]:
    """The bytes of ``column``, ``width`` of them a line, with zeros up to ``count`` lines."""
    content = np.ascontiguousarray(column).view(np.uint8).ravel()
    return np.concatenate([content, np.zeros(count * width - len(content), np.uint8)]).reshape(count, width)


def _write(descriptor: int, content: bytes | memoryview) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
