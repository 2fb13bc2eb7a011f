"""What a domain keeps outside its disks: the variables of its UEFI firmware and the state of its TPM.

See https://libvirt.org/formatdomain.html#operating-system-booting (``<nvram>``) and
https://libvirt.org/formatdomain.html#tpm-device. Both are files on the host, which QEMU or swtpm writes
while the domain runs: they are read as they are, in no common moment with the disks.
"""

from __future__ import annotations

import io
import tarfile
import xml.etree.ElementTree as ET
from pathlib import Path

from puller.errors import HypervisorError
from puller.hypervisor.domain import Domain
from puller.units import MIB

LIMIT = 64 * MIB
"""Most bytes taken of either. OVMF's variables have 0.5 to 4 MiB, 64 MiB on ARM; a TPM 2.0 has 20 KiB."""


def nvram(domain: Domain) -> bytes | None:
    """The domain's firmware variables; None if it has none yet. Raises HypervisorError."""
    element = ET.fromstring(domain.xml()).find("./os/nvram")
    source = None if element is None else element.find("source")
    text = (element.text or "") if element is not None else ""
    path = text.strip() or ("" if source is None else source.get("file", ""))
    if not path or not Path(path).exists():
        return None
    return _read(Path(path), f"the firmware variables of domain {domain.name}")


def tpm(domain: Domain) -> bytes | None:
    """The state of its emulated TPM as a tar archive; None if it has none. Raises HypervisorError."""
    backend = ET.fromstring(domain.xml()).find("./devices/tpm/backend[@type='emulator']")
    folder = domain.state_directory.parent / "swtpm" / domain.uuid
    if backend is None or not folder.is_dir():
        return None
    archive = io.BytesIO()
    what = f"the TPM state of domain {domain.name}"
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.suffix != ".lock" and path.name != ".lock":
                content = _read(path, what)
                member = tarfile.TarInfo(str(path.relative_to(folder)))
                member.size, member.mode, member.mtime = len(content), 0o600, int(path.stat().st_mtime)
                tar.addfile(member, io.BytesIO(content))
            if archive.tell() > LIMIT:
                raise HypervisorError(
                    f"too large, over 64 MiB, to be taken: {what}", advice=f"See what is in {folder}."
                )
    return archive.getvalue()


def _read(path: Path, what: str) -> bytes:
    try:
        if path.stat().st_size > LIMIT:
            raise HypervisorError(
                f"too large, over 64 MiB, to be taken: {what}, {path}", advice="See what that file is."
            )
        return path.read_bytes()
    except OSError as error:
        raise HypervisorError(
            f"cannot read {what}: {path}: {error.strerror}", advice="Run puller as root."
        ) from error
