"""The functions that nbdkit calls (nbdkit-python-plugin(3)), in a process of its own."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import nbdkit

from puller.cancelling import RetryPolicy
from puller.errors import PullerError
from puller.recovery.serving.channel import Channel
from puller.recovery.serving.session import CHANNEL, Ready
from puller.units import CHUNK, MIB

if TYPE_CHECKING:
    from puller.recovery.serving.exports import Disk, Exports
    from puller.recovery.serving.overlay import OverlaidDisk

API_VERSION = 2

_LARGEST_READ = 32 * MIB
"""The largest read that any client sends without asking (NBD protocol, "Block size constraints")."""

_HOLE = nbdkit.EXTENT_HOLE | nbdkit.EXTENT_ZERO


class _Process:
    """What the process serves, and its connection to puller."""

    channel: Channel
    exports: Exports


def thread_model() -> int:
    """Let nbdkit call from many threads at once: they mostly wait for the store."""
    return int(nbdkit.THREAD_MODEL_PARALLEL)


def config(key: str, value: str) -> None:
    """Take the parameter with the number of the inherited descriptor."""
    if key == CHANNEL:
        _Process.channel = Channel(int(value))


def get_ready() -> None:
    """Receive the session and open the disks. nbdkit ends if this fails, and puller knows why."""
    with _Process.channel.told():
        session = _Process.channel.session()
        from puller.recovery.serving.exports import Exports

        _Process.exports = Exports(session, _Process.channel.notice, RetryPolicy(session.patience))


def after_fork() -> None:
    """Begin: nbdkit listens by now, and lets clients wait until this returns."""
    exports = _Process.exports
    with _Process.channel.told():
        exports.begin()
    _Process.channel.watch(exports.end)
    sizes = {disk.name: disk.size for disk in exports.disks}
    _Process.channel.ready(Ready(exports.point.point, sizes))


def cleanup() -> None:
    """End all waits for the store."""
    _Process.exports.end()


def list_exports(readonly: bool, is_tls: bool) -> list[tuple[str, str]]:
    """Return name and description of all disks."""
    return [(disk.name, _Process.exports.description(disk)) for disk in _Process.exports.disks]


def default_export(readonly: bool, is_tls: bool) -> str:
    """Serve the first disk to a client that names none."""
    return _Process.exports.disks[0].name


def open(readonly: bool) -> Disk:  # noqa: A001 - nbdkit's name
    """Return the disk that a client asks for."""
    name = str(nbdkit.export_name())
    try:
        return _Process.exports.named(name)
    except PullerError:
        nbdkit.set_error(errno.ENOENT)
        raise


def export_description(disk: Disk) -> str:
    """Describe the disk."""
    return _Process.exports.description(disk)


def get_size(disk: Disk) -> int:
    """Return its size in bytes."""
    return disk.size


def block_size(disk: Disk) -> tuple[int, int, int]:
    """Allow any read, but whole chunks are best."""
    return 1, CHUNK, _LARGEST_READ


def can_multi_conn(disk: Disk) -> bool:
    """Several connections see the same."""
    return True


def can_write(disk: Disk) -> bool:
    """nbdkit itself refuses writes to what is served read-only."""
    return True


def can_trim(disk: Disk) -> bool:
    """A hole takes no room in the overlay."""
    return True


def can_zero(disk: Disk) -> bool:
    """As ``can_trim``."""
    return True


def can_flush(disk: Disk) -> bool:
    """Clients may ask for it; what is thrown away has no need of it."""
    return True


def can_fua(disk: Disk) -> int:
    """As ``can_flush``."""
    return int(nbdkit.FUA_NATIVE)


def flush(disk: Disk, flags: int) -> None:
    """Do nothing: see ``can_flush``."""


def pread(disk: Disk, buffer: memoryview, offset: int, flags: int) -> None:
    """Read. What cannot be read is an input/output error for this request only."""
    with _reported():
        _Process.exports.read(disk, memoryview(buffer), offset)


def pwrite(disk: OverlaidDisk, buffer: memoryview, offset: int, flags: int) -> None:
    """Write to the overlay."""
    with _reported():
        _Process.exports.write(disk, memoryview(buffer), offset)


def zero(disk: OverlaidDisk, count: int, offset: int, flags: int) -> None:
    """Make a range of the overlay zero."""
    with _reported():
        _Process.exports.zero(disk, offset, count)


trim = zero
"""What is discarded reads as zeros."""


def extents(disk: Disk, count: int, offset: int, flags: int) -> Iterator[tuple[int, int, int]]:
    """Say what is data and what is a hole."""
    with _reported():
        runs = _Process.exports.runs(disk, offset, count)
    return iter([(run.offset, run.length, 0 if run.stored else _HOLE) for run in runs])


@contextmanager
def _reported() -> Iterator[None]:
    """Choose the error that the client sees: that of the overlay's file system, or an input/output error."""
    try:
        yield
    except PullerError:
        nbdkit.set_error(errno.EIO)
        raise
    except OSError as error:
        nbdkit.set_error(error.errno or errno.EIO)
        raise
