"""The header of a qcow2 image file, read from the file without asking QEMU.

The format is QEMU's ``docs/interop/qcow2.txt``. Numbers are big-endian. Reading takes no lock and hurts no
running machine. QEMU writes bitmaps into the image when it closes it, so the file of a running machine
shows those that were there when it started.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_MAGIC = b"QFI\xfb"
_V2_LENGTH = 72
_V3_FIELDS = struct.Struct(">QQQII")  # incompatible, compatible, autoclear, refcount order, header length
_CORRUPT = 1 << 1
_BITMAPS_VALID = 1 << 0
_EXTENSION = struct.Struct(">II")
_BITMAPS_EXTENSION = 0x23852875
_BITMAPS = struct.Struct(">IIQQ")  # count, reserved, size of the directory, its offset
_ENTRY = struct.Struct(">QIIBBHI")  # table, its length, flags, type, granularity, name's and extra's length
_IN_USE = 1 << 0
_HEADER_LIMIT = 64 << 10
_DIRECTORY_LIMIT = 1024 * 65535
"""QEMU's own bound: ``BME_MAX_BITMAP_DIRECTORY_SIZE``, 65535 entries of 1 KiB."""


@dataclass(frozen=True, slots=True)
class StoredBitmap:
    """A dirty bitmap in an image. ``in_use``: QEMU has it open, or died while it had: then it is lost."""

    name: str
    in_use: bool


@dataclass(frozen=True, slots=True)
class Header:
    """``version`` is 2 (compat 0.10) or 3 (1.1); ``corrupt`` is QEMU's mark on a broken image."""

    version: int
    corrupt: bool
    bitmaps: tuple[StoredBitmap, ...]


def read_header(path: Path) -> Header | None:
    """The header of the image at ``path``; None if it is no qcow2 image or cannot be read from here."""
    try:
        with path.open("rb") as file:
            return _parse(file)
    except (OSError, struct.error, ValueError):  # such as an offset that no file has
        return None


def _parse(file: BinaryIO) -> Header | None:
    head = file.read(_HEADER_LIMIT)
    if head[:4] != _MAGIC or len(head) < _V2_LENGTH:
        return None
    version = int.from_bytes(head[4:8], "big")
    if version < 3:
        return Header(version, False, ())
    incompatible, _, autoclear, _, length = _V3_FIELDS.unpack_from(head, _V2_LENGTH)
    # A program that does not know bitmaps clears the bit when it writes, and they mean nothing any more.
    extension = _extension(head, length) if autoclear & _BITMAPS_VALID else None
    bitmaps = () if extension is None else tuple(_bitmaps(file, extension))
    return Header(version, bool(incompatible & _CORRUPT), bitmaps)


def _extension(head: bytes, at: int) -> bytes | None:
    """The content of the bitmaps extension among those that follow the header."""
    while at + _EXTENSION.size <= len(head):
        kind, length = _EXTENSION.unpack_from(head, at)
        at += _EXTENSION.size
        if kind == 0:
            return None
        if kind == _BITMAPS_EXTENSION:
            return head[at : at + length]
        at += -(-length // 8) * 8
    return None


def _bitmaps(file: BinaryIO, extension: bytes) -> Iterator[StoredBitmap]:
    count, _, size, offset = _BITMAPS.unpack_from(extension)
    file.seek(offset)
    directory = file.read(min(size, _DIRECTORY_LIMIT))
    at = 0
    for _ in range(count):
        _, _, flags, _, _, name_length, extra = _ENTRY.unpack_from(directory, at)
        name = at + _ENTRY.size + extra
        yield StoredBitmap(directory[name : name + name_length].decode(), bool(flags & _IN_USE))
        at += -(-(_ENTRY.size + extra + name_length) // 8) * 8
