"""zstd frames, with bounds on the unpacked size."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import zstandard

from puller.errors import DamagedData
from puller.units import CHUNK

LEVEL = 1

FAST = -1
"""Stands for level 1 with a target length of 2, whose search stops at the first good match."""

_FAST = zstandard.ZstdCompressionParameters.from_level(1, target_length=2, write_content_size=1)

SEARCHING = 11
"""Lowest level that searches long for matches in content that has none."""

_QUICK = -10
"""Stands for level 10 with long distance matching: alone, it steps over repeats in long noise."""

_LONG = zstandard.ZstdCompressionParameters.from_level(
    SEARCHING - 1, source_size=CHUNK, enable_ldm=True, write_content_size=1
)

_PARAMETERS = {FAST: _FAST, _QUICK: _LONG}

_SAMPLE = 4096
"""Bytes in the middle of a content that are tried first."""

_WORTH = 0.99
"""Share of its length up to which a content must shrink at the level below to be searched for long."""

Content = bytes | bytearray | memoryview

_MANY = "multi_compress_to_buffer" in zstandard.backend_features
"""Whether the library compresses many contents in a call: wheels do, builds with a system's zstd do not."""


class _PerThread(threading.local):
    """A zstd context must not be shared between threads."""

    def __init__(self) -> None:
        self.compressors: dict[int, zstandard.ZstdCompressor] = {}
        self.decompressor = zstandard.ZstdDecompressor()


_per_thread = _PerThread()


def _compressor(level: int) -> zstandard.ZstdCompressor:
    compressors = _per_thread.compressors
    if level not in compressors:
        compressors[level] = (
            zstandard.ZstdCompressor(compression_params=_PARAMETERS[level])
            if level in _PARAMETERS
            else zstandard.ZstdCompressor(level=level, write_content_size=True)
        )
    return compressors[level]


def frame(content: Content, level: int = LEVEL) -> bytes:
    """Return one zstd frame of ``content`` with the content size in its header. ``level`` may be ``FAST``."""
    return _compressor(level).compress(content)


def frames(contents: Sequence[Content], level: int) -> Sequence[Content]:
    """Return the ``frame`` of each of ``contents``, of a lower level for those that hardly shrink at all.

    Uses one call if the library can (it refuses an empty list), because taking the interpreter's lock again
    after each content is costly.
    """
    if level >= SEARCHING:
        return [_incompressible(content) or frame(content, level) for content in contents]
    if not (_MANY and contents and all(map(len, contents))):
        return [frame(content, level) for content in contents]
    several: Any = _compressor(level).multi_compress_to_buffer(list(contents), threads=1)
    return [memoryview(one) for one in several]


def _incompressible(content: Content) -> bytes | None:
    """Return the frame of a content that is not worth a long search; None of any other.

    Level 1 misses short repeats, so it only says which contents to try at the highest quick level.
    """
    view = memoryview(content)
    middle = len(view) // 2
    sample = view[middle : middle + _SAMPLE]
    if len(sample) < _SAMPLE or _shrinks(frame(sample), sample):
        return None
    quick = frame(content, _QUICK)
    return None if _shrinks(quick, content) else quick


def _shrinks(framed: bytes, content: Content) -> bool:
    return len(framed) < _WORTH * len(content)


def unframe(stored: bytes | memoryview, limit: int) -> bytes:
    """Return the content of one zstd frame. Raises DamagedData, also if it is larger than ``limit`` bytes."""
    try:
        size = zstandard.frame_content_size(stored)
        if not 0 <= size <= limit:
            raise DamagedData(f"a compressed frame claims {size} bytes, but {limit} are allowed")
        content = _per_thread.decompressor.decompress(stored, allow_extra_data=False)
    except (zstandard.ZstdError, ValueError) as error:
        raise DamagedData(f"cannot unpack a compressed frame: {error}") from error
    if len(content) != size:
        raise DamagedData(f"a compressed frame holds {len(content)} bytes, not {size}")
    return content
