"""Data that a domain keeps outside its disks: the variables of its UEFI firmware and its TPM state.

See https://libvirt.org/formatdomain.html#operating-system-booting (``<nvram>``) and
https://libvirt.org/formatdomain.html#tpm-device. Both are files or block devices of the host, which QEMU or
swtpm writes while the domain runs. They are read as they are, not at the instant of the disks.
"""

from __future__ import annotations

import errno
import io
import os
import tarfile
import xml.etree.ElementTree as ET
from contextlib import suppress
from pathlib import Path

from puller.errors import HypervisorError
from puller.host.access import FileStatus, HostAccess
from puller.hypervisor.domain.domain import Domain
from puller.units import MIB

LIMIT = 64 * MIB
"""Maximum bytes of either: OVMF's variables on ARM are the largest."""


_LOOKS = 5


def nvram(domain: Domain) -> bytes | None:
    """Return the domain's firmware variables; None if it has none yet. Raises HypervisorError."""
    element = ET.fromstring(domain.xml()).find("./os/nvram")
    if element is None:
        return None
    source = element.find("source")
    what = f"the firmware variables of domain {domain.name}"
    if element.get("type") == "network" and source is not None:
        raise HypervisorError(
            f"cannot read {what}: they are on the network, "
            f"{source.get('protocol')} {source.get('name', '')}".rstrip(),
            advice="Back them up with the tools of that storage.",
        )
    path = (element.text or "").strip()
    if not path and source is not None:
        path = source.get("file") or source.get("dev") or ""
    return _read_if_made(domain, path, what)


def varstore(domain: Domain) -> bytes | None:
    """Return the firmware variables in QEMU's ``uefi-vars`` device; None if it has none yet.

    Raises HypervisorError.
    """
    element = ET.fromstring(domain.xml()).find("./os/varstore")
    path = "" if element is None else element.get("path", "")
    return _read_if_made(domain, path, f"the firmware variables of domain {domain.name}")


def tpm(domain: Domain) -> bytes | None:
    """Return the emulated TPM's state as a tar archive; None if it has none yet. Raises HypervisorError."""
    backend = ET.fromstring(domain.xml()).find("./devices/tpm/backend")
    what = f"the TPM state of domain {domain.name}"
    if backend is None:
        return None
    if backend.get("type") != "emulator":
        kept = "in the host's TPM" if backend.get("type") == "passthrough" else "by another program"
        raise HypervisorError(
            f"cannot read {what}: it is kept {kept}", advice="Store the recovery keys of the guest elsewhere."
        )
    source = backend.find("source")
    path = domain.state_directory.parent / "swtpm" / domain.uuid
    if source is not None and source.get("path"):
        path = Path(source.get("path", ""))
    if not _exists(domain, path, what):
        _require_shut_off(domain, path, what)
        return None
    return _archive(domain.host, path, what)


def has_tpm(domain: Domain) -> bool:
    """Return whether the domain has a TPM of any kind."""
    return ET.fromstring(domain.xml()).find("./devices/tpm") is not None


def _archive(host: HostAccess, path: Path, what: str) -> bytes:
    """Archive the file, or all files of the directory, without swtpm's locks.

    swtpm writes a state under another name and renames it, so a file may vanish after it was listed. Then
    the files are listed again.
    """
    try:
        for _ in range(_LOOKS):
            with suppress(FileNotFoundError):
                return _archived(host, path, what)
    except OSError as error:
        raise _unreadable(what, path, error) from error
    raise HypervisorError(
        f"cannot read {what}: {path} keeps changing", advice="Find out which program writes there."
    )


def _archived(host: HostAccess, path: Path, what: str) -> bytes:
    archive = io.BytesIO()
    is_folder = _status(host, path).kind == "directory"
    folder = path if is_folder else path.parent
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for file in host.files_below(path) if is_folder else [path]:
            if file.suffix != ".lock" and file.name != ".lock":
                modified = _status(host, file).modified // 10**9
                content = _read(host, file, what)
                member = tarfile.TarInfo(str(file.relative_to(folder)))
                member.size, member.mode, member.mtime = len(content), 0o600, modified
                tar.addfile(member, io.BytesIO(content))
            if archive.tell() > LIMIT:
                raise _too_large(what, folder)
    return archive.getvalue()


def _read_if_made(domain: Domain, path: str, what: str) -> bytes | None:
    if not path:
        return None
    if not _exists(domain, Path(path), what):
        _require_shut_off(domain, Path(path), what)
        return None
    return _read(domain.host, Path(path), what)


def _status(host: HostAccess, path: Path) -> FileStatus:
    found = host.status(path)
    if found is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    return found


def _exists(domain: Domain, path: Path, what: str) -> bool:
    try:
        return domain.host.status(path) is not None
    except OSError as error:  # the directory may not be entered, or its storage fails
        raise _unreadable(what, path, error) from error


def _require_shut_off(domain: Domain, path: Path, what: str) -> None:
    """The first start creates the files: a running domain has them, perhaps where puller may not read."""
    if domain.is_active():
        raise HypervisorError(f"cannot read {what}: {path}: no such file", advice="Run puller as root.")


def _read(host: HostAccess, path: Path, what: str) -> bytes:
    """Read all of it. A block device has a size of 0 for ``stat``, and a pipe would never end."""
    try:
        if _status(host, path).kind not in ("file", "block"):
            raise HypervisorError(
                f"cannot read {what}: {path} is neither a file nor a block device",
                advice="Find out what that file is.",
            )
        content = host.read(path, LIMIT + 1)
    except OSError as error:
        raise _unreadable(what, path, error) from error
    if len(content) > LIMIT:
        raise _too_large(what, path)
    return content


def _too_large(what: str, path: Path) -> HypervisorError:
    return HypervisorError(
        f"cannot back up {what}: {path} is larger than 64 MiB", advice="Find out what that file is."
    )


def _unreadable(what: str, path: Path, error: OSError) -> HypervisorError:
    return HypervisorError(f"cannot read {what}: {path}: {error.strerror}", advice="Run puller as root.")
