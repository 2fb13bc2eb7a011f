"""Users of a file or block device on this host: mounts, swap, processes, other devices, QEMU's locks.

The answers come from the kernel, so this needs no libvirt, and also finds virtual machines of other users and
those without libvirt. Only root can see processes of other users.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from puller.hypervisor.storage import imagelock
from puller.hypervisor.storage.storage import Identity, Storage, identity

_PROC = Path("/proc")


def user_of(storage: Storage, descriptor: int) -> str | None:
    """Return a clause that names a user of the storage open as ``descriptor``; None if nobody uses it."""
    looks = (_mounts(storage), _swaps(storage), _processes(storage), _holders(storage), _locks(descriptor))
    return next((user for look in looks for user in look), None)


def _mounts(storage: Storage) -> Iterator[str]:
    """Yield file systems on the storage: proc_pid_mountinfo(5). Those of btrfs have their own numbers."""
    for line in _lines(_PROC / "self" / "mountinfo"):
        fields, _, source = line.partition(" - ")
        major, minor = map(int, fields.split()[2].split(":"))
        if ("device", major, minor) in storage.shared or storage.is_at(_path(source.split()[1])):
            yield f"it is mounted at {_path(fields.split()[4])}"


def _swaps(storage: Storage) -> Iterator[str]:
    for line in _lines(_PROC / "swaps")[1:]:
        if storage.is_at(_path(line.split()[0])):
            yield "the host swaps to it"


def _holders(storage: Storage) -> Iterator[str]:
    for name in storage.holders:
        yield f"{name} is built on it"


def _locks(descriptor: int) -> Iterator[str]:
    if imagelock.is_held(descriptor):
        yield "a QEMU program that puller cannot see, perhaps on another host, holds its lock"


def _processes(storage: Storage) -> Iterator[str]:
    """Yield processes that may write to it, and QEMU programs, whose images must not change while read."""
    for process in _PROC.glob("[0-9]*"):
        if process.name == str(os.getpid()):
            continue
        with suppress(OSError):  # the process has ended, or belongs to another user
            name = (process / "comm").read_text().strip()
            opened = [file for file in (process / "fd").iterdir() if _is_in(file, storage.shared)]
            if any(name.startswith("qemu") or _may_write(process, file.name) for file in opened):
                yield _describe(process, name)


def _is_in(file: Path, shared: frozenset[Identity]) -> bool:
    with suppress(OSError):
        return identity(file.stat()) in shared
    return False


def _may_write(process: Path, number: str) -> bool:
    """Return whether a descriptor was opened for writing: proc_pid_fdinfo(5)."""
    for line in _lines(process / "fdinfo" / number):
        if line.startswith("flags:"):
            flags = int(line.split()[1], 8)
            return flags & os.O_ACCMODE != os.O_RDONLY and not flags & os.O_PATH
    return False


def _describe(process: Path, name: str) -> str:
    guest = _guest(process)
    whose = f" of domain {guest}" if guest else ""
    return f"process {process.name} ({name}{whose}) has it open"


def _guest(process: Path) -> str:
    """Return the domain of a QEMU from libvirt's arguments: ``-name guest=web1,debug-threads=on``."""
    words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
    if "-name" not in words[:-1]:
        return ""
    return words[words.index("-name") + 1].split(",")[0].removeprefix("guest=")


def _lines(path: Path) -> list[str]:
    with suppress(OSError):
        return path.read_text(errors="surrogateescape").splitlines()
    return []


def _path(field: str) -> str:
    """Decode a path from a file of /proc, where blanks and the like are octal numbers."""
    for code in ("\\040", "\\011", "\\012", "\\134"):
        field = field.replace(code, chr(int(code[1:], 8)))
    return field
