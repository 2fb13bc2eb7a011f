"""Where a restore writes: a new file, or a device or NBD export that is there already.

A new file grows under a temporary name and gets its own only when it is complete and durable, so
nobody can mistake half a disk for a disk. A device cannot be swapped in like that: its zeros have to
be written too, because it may hold anything.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from puller.cancelling import CancelScope
from puller.errors import NbdError, OutputFailed, OutputInUse, OutputRefused
from puller.host.allocation import allocate, punch
from puller.nbd.writer import Target
from puller.store.directory.mounts import sync_folder
from puller.units import MIB, format_bytes

FORMATS = ("raw", "qcow2")

_BLKZEROOUT = 0x127F
"""ioctl of linux/fs.h: write zeroes to (start, length) of a block device."""

_SECTOR = 4096

Publish = Callable[[Path, Path], None]
Content = bytes | memoryview


class Output(Protocol):
    """A disk being written. Ranges of one output never overlap; calls come from many threads."""

    def expect(self, offset: int, length: int) -> None:
        """Get ready for the range to be written, which it may be or not."""

    def write(self, offset: int, content: Content) -> None:
        """Put ``content`` at ``offset``. It is free for other use when this returns."""

    def zero(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Make each (offset, length) read as zeros."""


class RawFile:
    """A sparse file. It starts as one hole, so zeros need no writing.

    ``direct`` is a second descriptor of it, opened with O_DIRECT, or None: what is whole sectors then
    goes past the page cache, which on a full host costs more than all else that a restore does.
    """

    def __init__(self, descriptor: int, direct: int | None) -> None:
        self._descriptor = descriptor
        self._direct = direct

    def expect(self, offset: int, length: int) -> None:
        """See Output: allocated at once, where the file system can.

        ext4 lets one thread at a time write past the page cache into a hole, but many into what is allocated.
        """
        allocate(self._descriptor, offset, length)

    def write(self, offset: int, content: Content) -> None:
        """See Output."""
        view = memoryview(content)
        written = self._write_direct(offset, view)
        while written < len(view):
            written += os.pwrite(self._descriptor, view[written:], offset + written)

    def _write_direct(self, offset: int, view: memoryview) -> int:
        """Write past the page cache what can be; return how much that was."""
        whole = len(view) // _SECTOR * _SECTOR
        if self._direct is None or not whole or offset % _SECTOR:
            return 0
        try:
            return os.pwrite(self._direct, view[:whole], offset)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return 0  # memory that does not begin at a page, or a device with larger sectors

    def zero(self, ranges: Iterable[tuple[int, int]]) -> None:
        """See Output: holes already."""


class BlockDevice(RawFile):
    """A block device, with whatever it held before."""

    def expect(self, offset: int, length: int) -> None:
        """See Output: all of it has its room. The kernel allocates nothing on a device, and answers EINVAL
        where it is asked for a part of a sector, such as at the end of a disk on a device with 4096 a sector.
        """

    def zero(self, ranges: Iterable[tuple[int, int]]) -> None:
        """See Output: holes, so that a thin device stays thin, or zeros where it knows of none."""
        for offset, length in ranges:
            self._zero(offset, length)

    def _zero(self, offset: int, length: int) -> None:
        """Both ways take whole sectors; of 4096 bytes at most."""
        first, last = -(-offset // _SECTOR) * _SECTOR, (offset + length) // _SECTOR * _SECTOR
        if first >= last:
            self.write(offset, bytes(length))
            return
        self.write(offset, bytes(first - offset))
        if not punch(self._descriptor, first, last - first):
            fcntl.ioctl(self._descriptor, _BLKZEROOUT, struct.pack("QQ", first, last - first))
        self.write(last, bytes(offset + length - last))


class NewImage:
    """An NBD export of an image that was just made: unallocated, so zeros need no writing."""

    def __init__(self, target: Target) -> None:
        self._target = target

    def expect(self, offset: int, length: int) -> None:
        """See Output: the server's own business."""

    def write(self, offset: int, content: Content) -> None:
        """See Output."""
        self._target.write(offset, memoryview(content))

    def zero(self, ranges: Iterable[tuple[int, int]]) -> None:
        """See Output: unallocated already."""


class OldImage(NewImage):
    """Somebody's NBD export, with whatever it held before."""

    def zero(self, ranges: Iterable[tuple[int, int]]) -> None:
        """See Output."""
        self._target.zero(ranges)


class UsedImage(NewImage):
    """The NBD export of an image that a guest goes on with."""

    def zero(self, ranges: Iterable[tuple[int, int]]) -> None:
        """See Output: what is shorter than a MiB keeps its place in the image.

        A hole of any length takes the host's file system some 0.3 ms, and the guest may want the place again.
        """
        self._target.zero(ranges, least_hole=MIB)


def is_uri(output: str) -> bool:
    """Whether ``output`` names an NBD export rather than a path."""
    return output.startswith(("nbd://", "nbd+unix://", "nbds://"))


def refuse_impossible(name: str) -> None:
    """Raise OutputRefused if no file can have this name, so that any use of it would raise."""
    try:
        Path(name or "\0").stat()  # an empty one would be this folder
    except ValueError as error:  # UnicodeEncodeError too
        raise OutputRefused(f"{name!r} cannot be the name of an output") from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG and not is_uri(name):
            raise OutputRefused(f"{name!r} is too long for the name of an output") from error


def is_device(path: Path) -> bool:
    """Whether ``path`` is a block device."""
    return path.exists() and stat.S_ISBLK(path.stat().st_mode)


@contextmanager
def translated(name: str) -> Iterator[None]:
    """Raise OutputFailed for whatever the system or an NBD server has against the output ``name``."""
    try:
        yield
    except OSError as error:
        raise OutputFailed(f"{name} cannot be written: {error.strerror or error}") from error
    except NbdError as error:
        raise OutputFailed(f"{name} cannot be written: {error}") from error


def add(partial: Path, path: Path) -> None:
    """Give the finished file its name. Raises OutputRefused if somebody has taken it meanwhile."""
    try:
        os.link(partial, path)
    except FileExistsError as error:
        raise OutputRefused(f"{path} exists: it was made during the restore") from error
    except OSError as error:
        if os.path.lexists(path):
            raise OutputRefused(f"{path} exists: it was made during the restore") from error
        replace(partial, path)  # a file system without hard links, whatever it says; or this fails too


def replace(partial: Path, path: Path) -> None:
    """Put the finished file in the place of whatever has its name."""
    partial.replace(path)


@contextmanager
def new_file(path: Path, publish: Publish) -> Iterator[Path]:
    """A temporary path beside ``path`` that becomes it on success, and is removed on any error."""
    partial = path.with_name(f".{path.name}.partial-{secrets.token_hex(4)}")
    try:
        yield partial
        _make_durable(partial)
        publish(partial, path)
        sync_if_possible(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def _make_durable(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _past_the_cache(descriptor: int) -> Iterator[int | None]:
    """Open the file of ``descriptor`` again, past the page cache; None where the file system cannot do that.

    Not by its name, which may lead elsewhere by now.
    """
    try:
        direct = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)
    except OSError:
        yield None
        return
    try:
        yield direct
    finally:
        os.close(direct)


def make_folder(path: Path, mode: int = 0o700) -> None:
    """Make the folder and all that is missing above it, each of ``mode``: for this user only.

    It is made durable, because a power cut would otherwise take its content with it.
    """
    if path.is_dir():
        return
    make_folder(path.parent, mode)
    with suppress(FileExistsError):  # made by somebody just now
        path.mkdir(mode=0o700)
        path.chmod(mode)  # whatever the umask
    sync_if_possible(path.parent)


def sync_if_possible(folder: Path) -> None:
    """Sync the folder. Its content is complete, so a file system that cannot sync folders is no failure."""
    with suppress(OSError):
        sync_folder(folder)


def closed_to_others(path: Path) -> Path | None:
    """The uppermost directory on the way to ``path`` that only its owner and group may enter."""
    ways = (folder for folder in reversed(path.absolute().parents) if folder.is_dir())
    return next((folder for folder in ways if not folder.stat().st_mode & stat.S_IXOTH), None)


def create(path: Path) -> None:
    """Create an empty file, for this user only from its first byte."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


@contextmanager
def opened_raw(path: Path) -> Iterator[RawFile]:
    """The sparse file at ``path``, open for writing."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        with _past_the_cache(descriptor) as direct:
            yield RawFile(descriptor, direct)
    finally:
        os.close(descriptor)


@contextmanager
def raw(path: Path, size: int, publish: Publish) -> Iterator[Output]:
    """A new raw file of ``size`` bytes."""
    with new_file(path, publish) as partial:
        create(partial)
        os.truncate(partial, size)
        with opened_raw(partial) as file:
            yield file


@contextmanager
def device(path: Path, held: int, size: int) -> Iterator[tuple[Output, int]]:
    """The existing block device that is open as ``held``, with room for ``size`` bytes, and the bytes left.

    ``path`` is its name in messages.
    """
    try:
        descriptor = os.open(f"/proc/self/fd/{held}", os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        raise OutputInUse(f"cannot restore to {path}: the kernel says that it is in use") from error
    try:
        room = os.lseek(descriptor, 0, os.SEEK_END)
        refuse_small(str(path), room, size)
        with _past_the_cache(descriptor) as direct:
            yield BlockDevice(descriptor, direct), room - size
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def export(uri: str, size: int, scope: CancelScope) -> Iterator[tuple[Output, int]]:
    """An existing NBD export with room for ``size`` bytes, and the bytes left."""
    with _connected(uri, scope) as target:
        refuse_small(uri, target.size, size)
        yield OldImage(target), target.size - size
        target.flush()


def _connected(uri: str, scope: CancelScope) -> Target:
    try:
        return Target(uri, scope)
    except NbdError as error:
        advice = "Check that the NBD server runs and offers this export for writing, then restore again."
        raise OutputFailed(error.message, advice=advice) from error


def refuse_small(name: str, room: int, size: int) -> None:
    """Raise OutputRefused if ``room`` bytes are too few."""
    if room < size:
        raise OutputRefused(
            f"{name} has {room} bytes ({format_bytes(room)}), the disk needs {size}",
            advice="Choose an output that is at least as large as the disk.",
        )
