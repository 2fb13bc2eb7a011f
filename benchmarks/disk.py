"""The disk that is backed up: a file system filled with the machine's own files, noise, zeros and a hole.

::

    | ext4 with files (most of it data) | random | zeros that were written | nothing |

It is made once and kept in the work folder; each domain gets a copy.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from puller.units import CHUNK, GIB, MIB

SMALL = 4096
"""Files take whole blocks of 4 KiB in ext4."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Sizes in bytes. ``files`` is how much the files hold, ``filesystem`` how large their ext4 is."""

    files: int
    filesystem: int
    random: int
    zeros: int
    size: int

    @property
    def random_at(self) -> int:
        """Where the random region begins; the zeros follow it."""
        return self.filesystem

    @property
    def name(self) -> str:
        """Tells disks of different layouts apart."""
        return f"disk-{self.files // MIB}-{self.random // MIB}-{self.size // MIB}.qcow2"


FULL = Layout(5 * GIB + 64 * MIB, 8 * GIB, 256 * MIB, 256 * MIB, 10 * GIB)
QUICK = Layout(1 * GIB, 2 * GIB, 64 * MIB, 64 * MIB, 3 * GIB)


def make_disk(folder: Path, layout: Layout) -> Path:
    """The qcow2 of this layout in ``folder``, made if it is not there. Raises CalledProcessError."""
    image = folder / layout.name
    if image.exists():
        return image
    staging, raw, part = folder / "staging", folder / "filesystem.raw", image.with_suffix(".part")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        _gather(staging, layout.files)
        _make_filesystem(raw, staging, layout.filesystem)
        _run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(part))
        _add_regions(part, layout)
        part.rename(image)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        for path in (raw, part):
            path.unlink(missing_ok=True)
    return image


def _gather(staging: Path, wanted: int) -> None:
    """Copy files of this machine, in walking order, until they take ``wanted`` bytes of a file system.

    If all of them are too few, they are taken again, each behind one more byte in front: as
    compressible as before, and no chunk equal to one of the first time.
    """
    taken = 0
    for turn in count():
        before = taken
        for source in _sources():
            with suppress(OSError):  # unreadable, or gone meanwhile
                taken += _copy(source, staging / str(turn) / str(source).lstrip("/"), turn)
            if taken >= wanted:
                return
        if taken == before:
            raise OSError("this machine has no readable files to fill a disk with")


def _sources() -> Iterator[Path]:
    """Regular files, each once however many names it has: a file system would hold it once too."""
    seen = set()
    for root in ("/usr", "/opt", sys.prefix):
        for folder, folders, names in os.walk(root):
            folders.sort()
            for path in (Path(folder, name) for name in sorted(names)):
                inode = _inode(path)
                if inode is not None and inode not in seen:
                    seen.add(inode)
                    yield path


def _inode(path: Path) -> tuple[int, int] | None:
    """Device and inode of a regular file; None of anything else, also of a file that has gone meanwhile."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISREG(status.st_mode) else None


def _copy(source: Path, target: Path, turn: int) -> int:
    """Copy (by a hard link where that will do); return the bytes that the copy takes."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if turn:
        with source.open("rb") as data, target.open("wb") as copy:
            copy.write(b"\n" * turn)
            shutil.copyfileobj(data, copy, MIB)
    else:
        try:
            os.link(source, target)
        except OSError:
            shutil.copyfile(source, target)
    return -(-target.stat().st_size // SMALL) * SMALL


def _make_filesystem(raw: Path, staging: Path, size: int) -> None:
    with raw.open("wb") as image:
        image.truncate(size)
    options = "lazy_itable_init=0,lazy_journal_init=0,nodiscard"
    _run("mkfs.ext4", "-q", "-F", "-m", "0", "-E", options, "-d", str(staging), str(raw))


def _add_regions(image: Path, layout: Layout) -> None:
    """Append noise and written zeros behind the file system, and a hole up to the disk's size."""
    _run("qemu-img", "resize", "-q", "-f", "qcow2", str(image), str(layout.size))
    _write_noise(image, layout.random_at, layout.random)
    zeros = f"write -P 0 {layout.random_at + layout.random} {layout.zeros}"
    _run("qemu-io", "-f", "qcow2", "-c", zeros, str(image))


def _write_noise(image: Path, offset: int, length: int) -> None:
    """Fill a range of an image that nobody has open with random bytes."""
    noise = image.with_suffix(".noise")
    noise.write_bytes(os.urandom(length))
    _run("qemu-io", "-f", "qcow2", "-c", f"write -s {noise} {offset} {length}", str(image))
    noise.unlink()


def data_chunks(layout: Layout) -> range:
    """Chunk numbers of the part of the disk that surely holds files: the first half of what they take."""
    return range(0, layout.files // 2 // CHUNK)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
