"""The record of a booted machine: what was made for it, where, and what state it is in.

::

    STORAGE/NAME/boot.json                      the record
    /var/lib/puller/booted/NAME -> STORAGE/NAME, where STORAGE is another directory
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Literal

import msgspec
from msgspec.structs import replace

from puller.errors import NotBooted, OutputRefused, PullerError, UsageError
from puller.host.folders import state_directory
from puller.recovery.targets import outputs
from puller.store.directory.mounts import sync_folder

NAME = "boot.json"

ENTERED = 0o711
"""Mode of directories that QEMU's user must enter."""

State = Literal["booting", "running", "pulling", "standalone"]

_LIMIT = 1 << 20


class BootedDisk(msgspec.Struct, frozen=True):
    """``disk`` is the target, ``overlay`` the path of the image that takes the guest's writes.

    ``whole``: all data was pulled into the image, and is in its file.
    """

    disk: str
    size: int
    overlay: str
    whole: bool = False


class Booted(msgspec.Struct, frozen=True):
    """A booted machine. ``domain`` is the one that was backed up; ``repository`` a URL.

    ``runtime`` is the directory of what must not outlive a restart of the host. ``keep`` is the name of the
    object that protects the point; ``firmware`` are files and directories made for the domain.
    """

    name: str
    uuid: str
    state: State
    point: str
    domain: str
    repository: str
    connect: str
    created: datetime
    storage: str
    runtime: str
    socket: str
    disks: tuple[BootedDisk, ...]
    firmware: tuple[str, ...] = ()
    keep: str = ""

    @property
    def folder(self) -> Path:
        """The directory with the record and the overlays."""
        return Path(self.storage)

    def with_whole(self, target: str) -> Booted:
        """Return the record in which the disk ``target`` is whole."""
        disks = (replace(disk, whole=disk.whole or disk.disk == target) for disk in self.disks)
        return replace(self, disks=tuple(disks))


def home() -> Path:
    """Return the directory in which all booted machines of this user can be found."""
    return state_directory() / "booted"


def folder_for(storage: Path | None, name: str) -> Path:
    """Return the directory for a new machine, which must not exist. Raises UsageError, OutputRefused."""
    if "/" in name or name.startswith("."):
        raise UsageError(f"cannot name a machine '{name}'", advice="Leave out slashes and a leading dot.")
    known, folder = home() / name, (storage or home()).absolute() / name
    if known.is_symlink() and not known.exists():
        read(name)  # says what is missing
    if os.path.lexists(known) or folder.exists():
        found = known if os.path.lexists(known) else folder
        raise OutputRefused(f"{found} exists", advice=f"Choose another --name, or {_way_out(found, name)}.")
    return folder


def _way_out(found: Path, name: str) -> str:
    if not (home() / name / NAME).exists():
        return f"delete {found} if it is empty"
    with suppress(PullerError, FileNotFoundError):
        if read(name).state == "standalone":
            return f"delete {found} if the machine, which stands alone, is not needed any more"
    return f"run 'puller boot --discard {name}'"


def make_folder(storage: Path | None, name: str) -> Path:
    """Make the directory of a machine, and make it known. Raises UsageError, OutputRefused."""
    known, folder = home() / name, folder_for(storage, name)
    with outputs.translated(str(folder)):
        for parent in (folder.parent, home()):
            outputs.make_folder(parent, ENTERED)
        folder.mkdir(mode=0o700)
        folder.chmod(ENTERED)
        outputs.sync_if_possible(folder.parent)
        if folder != known:
            known.symlink_to(folder)
            outputs.sync_if_possible(known.parent)
    return folder


def write(booted: Booted) -> None:
    """Write the record, durably, in place of an older one. Raises OutputFailed."""
    path = booted.folder / NAME
    fresh = path.with_name(f".{NAME}.new")
    with outputs.translated(str(path)):
        with open(fresh, "wb", opener=_private) as file:
            file.write(msgspec.json.format(msgspec.json.encode(booted), indent=1))
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(path)
        sync_folder(path.parent)


def read(name: str) -> Booted:
    """Return the record of the machine ``name``. Raises NotBooted."""
    known = home() / name
    if "/" not in name:
        with suppress(FileNotFoundError, NotADirectoryError):
            return read_from(known)
        if known.is_symlink():
            raise NotBooted(
                f"cannot find the record of machine {name}: {known.readlink()} is not there",
                advice=f"Mount what it is on. If it was deleted for good, remove {known}.",
            )
    raise NotBooted(f"no machine {name} was booted from a restore point")


def read_from(folder: Path) -> Booted:
    """Return the record in ``folder``. Raises FileNotFoundError, PullerError."""
    path = folder / NAME
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(_LIMIT), type=Booted)
    except FileNotFoundError:
        raise
    except (OSError, msgspec.MsgspecError, ValueError) as error:
        raise PullerError(
            f"cannot read the record of a booted machine, {path}: {error}",
            advice="Remove the domain with virsh, and then the directory, if the machine is not needed.",
        ) from error


def records() -> Iterator[Booted]:
    """Yield all booted machines by name, without those whose directory is not there.

    The links to these stay: after a restart of the host the directory may not be mounted yet.
    """
    for known in sorted(home().glob("*")) if home().is_dir() else []:
        with suppress(FileNotFoundError, NotADirectoryError):
            yield read_from(known)


def forget(booted: Booted) -> None:
    """Remove the directory with all that puller has put there, and the link to it."""
    known = home() / booted.name
    with outputs.translated(str(booted.folder)):
        for path in (*(Path(disk.overlay) for disk in booted.disks), *booted.folder.glob("*.log")):
            path.unlink(missing_ok=True)
        for name in (NAME, f".{NAME}.new"):
            (booted.folder / name).unlink(missing_ok=True)
        booted.folder.rmdir()
        if known.is_symlink():
            known.unlink(missing_ok=True)


def _private(name: str, flags: int) -> int:
    return os.open(name, flags, 0o600)
