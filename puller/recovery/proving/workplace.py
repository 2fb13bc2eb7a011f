"""The directory of one drill, with all that it writes on this host, and what killed drills have left.

::

    DIRECTORY/drill-UUID/    overlays, console, firmware variables, the server's socket

The UUID is that of the drill's machine. The kernel's lock on the directory says that its drill lives.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from puller.errors import NoSuchDomain, OutputFailed
from puller.host import folders
from puller.hypervisor.connection import Host
from puller.hypervisor.domain.lifecycle import destroy
from puller.hypervisor.uri import log_directory, state_directory
from puller.recovery.booting.qemu_socket import APPARMOR
from puller.recovery.booting.record import ENTERED
from puller.recovery.targets import outputs
from puller.repository.format.names import UUID
from puller.units import GIB

RESERVE = GIB
"""Bytes that a drill leaves free, so that it does not fill the disk of others."""

_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_PREFIX = "drill-"
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.*-]")
_SWTPM_LOGS = Path("/var/log/swtpm/libvirt/qemu")
_NAME = re.compile(_PREFIX + f"({UUID})")


def default_directory() -> Path:
    """Return where drills work: ``/var/lib/puller/drills`` for root."""
    return folders.state_directory() / "drills"


@contextmanager
def workplace(directory: Path, host: Host) -> Iterator[tuple[str, Path]]:
    """Yield the UUID of a new machine and the directory for it, which is removed with all in it.

    Raises OutputFailed if it cannot be made.
    """
    identity = str(uuid.uuid4())
    folder = directory / f"{_PREFIX}{identity}"
    with outputs.translated(str(folder)):
        outputs.make_folder(directory, ENTERED)
        with _locked(directory):  # or somebody takes it for abandoned before it is locked
            folder.mkdir(mode=0o700)
            lock = os.open(folder, _FLAGS)
            fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        folder.chmod(ENTERED)
        yield identity, folder
    finally:
        _remove(folder, host)
        os.close(lock)


def machine_name(domain: str, identity: str) -> str:
    """Return the name of the machine ``identity`` for a drill of ``domain``."""
    return f"{_PREFIX}{_NOT_IN_NAMES.sub('_', domain)[:40]}-{identity[:8]}"


def require_space(folder: Path) -> None:
    """Raise OutputFailed if others could soon lack space because of the drill."""
    free = shutil.disk_usage(folder).free
    if free < RESERVE:
        raise OutputFailed(
            f"cannot drill in {folder.parent}: less than 1 GiB is free there",
            advice="Make room, or choose another directory in [prove].",
        )


def clear_leftovers(directory: Path, host: Host) -> int:
    """End the machines and remove the directories of drills that were killed; return how many."""
    if not directory.is_dir():
        return 0
    with outputs.translated(str(directory)), _locked(directory):
        found = [folder for folder in sorted(directory.glob(f"{_PREFIX}*")) if _is_abandoned(folder)]
        for folder in found:
            with suppress(NoSuchDomain):
                destroy(host.domain(folder.name.removeprefix(_PREFIX)))
            _remove(folder, host)
    return len(found)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    descriptor = os.open(directory, _FLAGS)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _is_abandoned(folder: Path) -> bool:
    if not _NAME.fullmatch(folder.name):
        return False
    try:
        lock = os.open(folder, _FLAGS | os.O_NOFOLLOW)
    except OSError:
        return False  # removed just now
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True


def tpm_directory(identity: str, host: Host) -> Path:
    """Return where libvirt keeps the TPM state of the machine ``identity``."""
    return state_directory(host.uri).parent / "swtpm" / identity


def _remove(folder: Path, host: Host) -> None:
    (APPARMOR / f"{folder.name}.pid").unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    identity = folder.name.removeprefix(_PREFIX)
    shutil.rmtree(tpm_directory(identity, host), ignore_errors=True)
    for directory in (log_directory(host.uri), _SWTPM_LOGS):
        for path in directory.glob(f"{machine_name('*', identity)}*.log"):
            path.unlink(missing_ok=True)
