"""Identity of a file or block device, independent of its name.

One storage has many names: there are symbolic links, bind mounts, device nodes in other directories, and a
guest's disk may be a partition of the device in question or the file behind a loop device. So storage is
compared by its numbers, together with all storage that shares bytes with it::

    /dev/mapper/vg-root      above: it holds a part of the bytes
    /dev/sda1
    /dev/sda                 ← the storage
    /dev/loop0, disk.img     below: it holds the bytes of the storage

See https://docs.kernel.org/admin-guide/sysfs-rules.html and Documentation/ABI/stable/sysfs-block of Linux.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from puller.host.access import LOCAL, HostAccess

_DEVICES = Path("/sys/dev/block")
_LOOPS = Path("/sys/block")

Identity = tuple[str, int, int]
"""``device`` and its two numbers, or ``file`` with the number of its file system and its inode."""


@dataclass(frozen=True, slots=True)
class Storage:
    """``shared`` is the storage itself and all storage that shares bytes with it; ``holders`` are the names
    of devices built on it, such as ``/dev/dm-0 (vg-root)`` and ``/dev/loop0``.
    """

    shared: frozenset[Identity]
    holders: tuple[str, ...]

    def is_at(self, path: str) -> bool:
        """Return whether ``path`` leads to the storage or to storage that shares bytes with it."""
        with suppress(OSError, ValueError):
            return identity(Path(path).stat()) in self.shared
        return False


def identity(status: os.stat_result) -> Identity:
    """Return the identity of the storage with this ``status``."""
    if stat.S_ISBLK(status.st_mode):
        return "device", os.major(status.st_rdev), os.minor(status.st_rdev)
    return "file", status.st_dev, status.st_ino


def storage_of(descriptor: int) -> Storage:
    """Return the storage that is open as ``descriptor``."""
    return _storage(identity(os.fstat(descriptor)))


def storage_at(path: Path) -> Storage | None:
    """Return the storage that ``path`` leads to; None if it cannot be examined."""
    with suppress(OSError, ValueError):
        return _storage(identity(path.stat()))
    return None


@dataclass(frozen=True, slots=True)
class DistantStorage:
    """A file or device of another host, where partitions and devices built on others are not followed."""

    host: HostAccess
    identity: tuple[int, ...]

    def is_at(self, path: str) -> bool:
        """Return whether ``path`` leads to the storage."""
        with suppress(OSError):
            found = self.host.status(Path(path))
            return found is not None and found.identity == self.identity
        return False


def storage_on(host: HostAccess, path: Path) -> Storage | DistantStorage | None:
    """Return the storage that ``path`` leads to on ``host``; None if it cannot be examined."""
    if host is LOCAL:
        return storage_at(path)
    with suppress(OSError):
        found = host.status(path)
        return None if found is None else DistantStorage(host, found.identity)
    return None


def _storage(own: Identity) -> Storage:
    above = _closure(own, _above)
    names = tuple(_name(device) for device in above if device != own and not _is_partition(device))
    return Storage(frozenset([*above, *_closure(own, _below)]), names)


def _closure(first: Identity, step: Callable[[Identity], Iterable[Identity]]) -> list[Identity]:
    """Return ``first`` and everything that can be reached from it."""
    found, left = [first], [first]
    while left:
        for near in step(left.pop()):
            if near not in found:
                found.append(near)
                left.append(near)
    return found


def _above(storage: Identity) -> Iterator[Identity]:
    """Yield partitions, loop devices, and devices that device-mapper, md and the like have built on it."""
    if storage[0] == "file":
        for loop in _LOOPS.glob("loop*"):
            if _backing_file(loop) == storage:
                yield from _numbers(loop)
        return
    folder = _folder(storage)
    for path in [*folder.glob("*/partition"), *folder.glob("holders/*/dev")]:
        yield from _numbers(path.parent)


def _below(storage: Identity) -> Iterator[Identity]:
    """Yield the disk of a partition, the components of a device, the file of a loop device."""
    if storage[0] == "file":
        return
    folder = _folder(storage)
    if _is_partition(storage):
        yield from _numbers(folder.parent)
    for path in folder.glob("slaves/*/dev"):
        yield from _numbers(path.parent)
    if (file := _backing_file(folder)) is not None:
        yield file


def _folder(device: Identity) -> Path:
    """Return the kernel's directory about a device."""
    with suppress(OSError):
        return (_DEVICES / f"{device[1]}:{device[2]}").resolve(strict=True)
    return Path("/nonexistent")


def _is_partition(storage: Identity) -> bool:
    return storage[0] == "device" and (_folder(storage) / "partition").exists()


def _numbers(folder: Path) -> Iterator[Identity]:
    with suppress(OSError, ValueError):
        major, minor = (folder / "dev").read_text().split(":")
        yield "device", int(major), int(minor)


def _backing_file(folder: Path) -> Identity | None:
    with suppress(OSError):
        return identity(Path((folder / "loop" / "backing_file").read_text().removesuffix("\n")).stat())
    return None


def _name(device: Identity) -> str:
    folder = _folder(device)
    with suppress(OSError):
        return f"/dev/{folder.name} ({(folder / 'dm' / 'name').read_text().strip()})"
    return f"/dev/{folder.name}"
