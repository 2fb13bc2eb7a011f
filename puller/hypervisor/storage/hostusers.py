"""Who on this host uses a file or block device: mounts, swap, processes, other devices, QEMU's locks.

All is asked of the kernel, so it needs no libvirt, and finds the machines of other users and of no libvirt
too. Processes of other users can be looked at by root only.
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
    """Say who uses the storage that is open as ``descriptor``, as a clause; None if nobody does."""
    looks = (_mounts(storage), _swaps(storage), _processes(storage), _holders(storage), _locks(descriptor))
    return next((user for look in looks for user in look), None)


def _mounts(storage: Storage) -> Iterator[str]:
    """File systems that lie on it: proc_pid_mountinfo(5). Those of btrfs have numbers of their own."""
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
        yield f"{name} lies upon it"


def _locks(descriptor: int) -> Iterator[str]:
    if imagelock.is_held(descriptor):
        yield "a QEMU program that cannot be seen from here, perhaps of another host, holds its lock"


def _processes(storage: Storage) -> Iterator[str]:
    """Those that may write to it, and QEMU's programs, which may also read what must not change."""
    for process in _PROC.glob("[0-9]*"):
        if process.name == str(os.getpid()):
            continue
        with suppress(OSError):  # it has ended, or belongs to another user
            name = (process / "comm").read_text().strip()
            opened = [file for file in (process / "fd").iterdir() if _is_in(file, storage.shared)]
            if any(name.startswith("qemu") or _may_write(process, file.name) for file in opened):
                yield _describe(process, name)


def _is_in(file: Path, shared: frozenset[Identity]) -> bool:
    with suppress(OSError):
        return identity(file.stat()) in shared
    return False


def _may_write(process: Path, number: str) -> bool:
    """Whether a descriptor was opened for writing: proc_pid_fdinfo(5)."""
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
    """The name of a QEMU's machine, as libvirt gives it: ``-name guest=web1,debug-threads=on``."""
    words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
    if "-name" not in words[:-1]:
        return ""
    return words[words.index("-name") + 1].split(",")[0].removeprefix("guest=")


def _lines(path: Path) -> list[str]:
    with suppress(OSError):
        return path.read_text(errors="surrogateescape").splitlines()
    return []


def _path(field: str) -> str:
    """A path out of a file of /proc, where blanks and the like are octal numbers."""
    for code in ("\\040", "\\011", "\\012", "\\134"):
        field = field.replace(code, chr(int(code[1:], 8)))
    return field
