"""zstd frames, with bounds on what a frame may unpack to."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import zstandard

from puller.errors import DamagedData

LEVEL = 1

Content = bytes | bytearray | memoryview

_MANY = "multi_compress_to_buffer" in zstandard.backend_features
"""Whether the library compresses many contents in a call: its wheels do, builds on a system's zstd do not."""


class _PerThread(threading.local):
    """A zstd context must not be shared between threads."""

    def __init__(self) -> None:
        self.compressors: dict[int, zstandard.ZstdCompressor] = {}
        self.decompressor = zstandard.ZstdDecompressor()


_per_thread = _PerThread()


def _compressor(level: int) -> zstandard.ZstdCompressor:
    compressors = _per_thread.compressors
    if level not in compressors:
        compressors[level] = zstandard.ZstdCompressor(level=level, write_content_size=True)
    return compressors[level]


def frame(content: Content, level: int = LEVEL) -> bytes:
    """One zstd frame of ``content`` with the content size in its header."""
    return _compressor(level).compress(content)


def frames(contents: Sequence[Content], level: int) -> Sequence[Content]:
    """The ``frame`` of each of ``contents``.

    In one call where the library can, which refuses to do nothing: to take the interpreter's lock again
    after each content, from other threads that hold it, was 4 % of a full.
    """
    if not (_MANY and contents and all(map(len, contents))):
        return [frame(content, level) for content in contents]
    several: Any = _compressor(level).multi_compress_to_buffer(list(contents), threads=1)
    return [memoryview(one) for one in several]


def unframe(stored: bytes | memoryview, limit: int) -> bytes:
    """The content of one zstd frame. Raises DamagedData, also if it is larger than ``limit`` bytes."""
    try:
        size = zstandard.frame_content_size(stored)
        if not 0 <= size <= limit:
            raise DamagedData(f"a compressed frame claims {size} bytes, {limit} are allowed")
        content = _per_thread.decompressor.decompress(stored, allow_extra_data=False)
    except (zstandard.ZstdError, ValueError) as error:
        raise DamagedData(f"a compressed frame does not unpack: {error}") from error
    if len(content) != size:
        raise DamagedData(f"a compressed frame holds {len(content)} bytes, not {size}")
    return content
