"""Firmware variables and TPM state of a restored domain, put where libvirt looks for them.

============  =========================================================  ===============================
attachment    as the domain that was backed up                           as a copy
============  =========================================================  ===============================
nvram.fd      the file that ``<nvram>`` names                            ``NAME_VARS.fd`` beside it
varstore.json the file that ``<varstore>`` names                         ``NAME.json`` beside it
tpm.tar       the directory of ``<tpm>``, or libvirt's for the UUID      libvirt's for the new UUID
============  =========================================================  ===============================

Where the XML names no file, libvirt's own place counts: ``nvram`` and ``varstore`` in its state directory,
``swtpm/UUID`` beside that. libvirt gives the variables to QEMU's user when the domain starts, but not the
TPM's state to swtpm's: that is done here.
"""

from __future__ import annotations

import io
import os
import pwd
import re
import tarfile
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from puller.errors import DamagedData, OutputRefused
from puller.recovery.attachments import write_file
from puller.recovery.targets import outputs
from puller.recovery.targets.overwriting import Domains, claim

NVRAM, VARSTORE, TPM = "nvram.fd", "varstore.json", "tpm.tar"

ENTERED = 0o711
"""Mode of new directories, which the users of QEMU and swtpm must enter."""


@dataclass(frozen=True, slots=True)
class FirmwarePlaces:
    """Where each goes: files, and the directory of the TPM's state; None where the domain has none."""

    nvram: Path | None
    varstore: Path | None
    tpm: Path | None

    def refuse_existing(self, held: Mapping[str, bytes]) -> None:
        """Raise OutputRefused if one that is ``held`` by the point is there already."""
        for name, path in ((NVRAM, self.nvram), (VARSTORE, self.varstore), (TPM, self.tpm)):
            if name in held and path is not None and path.exists():
                raise OutputRefused(
                    f"{path} exists, where {name} would go",
                    advice="Move it away, or pass --force to replace it.",
                )

    def refuse_used(self, held: Mapping[str, bytes], domains: Domains) -> None:
        """Raise OutputInUse if the variables of another domain, which runs, are where some would go."""
        for name, path in ((NVRAM, self.nvram), (VARSTORE, self.varstore)):
            if name in held and path is not None and path.exists():
                with outputs.translated(str(path)), claim(path, domains):
                    pass

    def write(self, held: Mapping[str, bytes], configuration: Path) -> None:
        """Put what is ``held`` by the point in its place, over what is there. Raises OutputFailed.

        ``configuration`` is the directory of libvirt's ``qemu.conf``.
        """
        for name, path in ((NVRAM, self.nvram), (VARSTORE, self.varstore)):
            if name in held and path is not None:
                _write(path, held[name])
        if TPM in held and self.tpm is not None:
            owner = _user_of_swtpm(configuration)
            for member, content in _members(held[TPM]):
                _write(self.tpm / member, content, owner)


def _write(path: Path, content: bytes, owner: tuple[int, int] | None = None) -> None:
    with outputs.translated(str(path)):
        outputs.make_folder(path.parent, ENTERED)
    write_file(path, content, force=True)
    if owner is not None:
        with outputs.translated(str(path)):
            os.chown(path, *owner)


def _user_of_swtpm(configuration: Path) -> tuple[int, int] | None:
    """User and group that libvirt runs swtpm as; None if puller is not root and cannot give files away."""
    if os.geteuid():
        return None
    named = ""
    with suppress(OSError):
        named = (configuration / "qemu.conf").read_text(errors="replace")
    found = re.findall(r'^\s*swtpm_user\s*=\s*"(.+)"', named, re.MULTILINE)
    user = found[-1] if found else "tss"  # libvirt's default, or root where there is no such user
    with suppress(KeyError):
        entry = pwd.getpwuid(int(user.lstrip("+"))) if user.lstrip("+").isdigit() else pwd.getpwnam(user)
        return entry.pw_uid, entry.pw_gid
    return None


def places(xml: str, state_directory: Path, *, name: str, uuid: str, copied: bool) -> FirmwarePlaces:
    """Where the firmware variables and the TPM's state of the domain ``xml`` go if it is defined by ``name``
    and ``uuid``. ``copied`` says that this is not the domain that was backed up.
    """
    root = ET.fromstring(xml)
    return FirmwarePlaces(
        _file(_nvram_of(root), state_directory / "nvram" / f"{name}_VARS.fd", copied),
        _file(_varstore_of(root), state_directory / "varstore" / f"{name}.json", copied),
        _tpm(root, state_directory.parent / "swtpm" / uuid, copied),
    )


def _nvram_of(root: ET.Element) -> str | None:
    """The file that ``<nvram>`` names, empty if it names none; None without the element."""
    element = root.find("./os/nvram")
    if element is None:
        return None
    source = element.find("source")
    return (element.text or "").strip() or ("" if source is None else source.get("file", ""))


def _varstore_of(root: ET.Element) -> str | None:
    element = root.find("./os/varstore")
    return None if element is None else element.get("path", "")


def _file(named: str | None, usual: Path, copied: bool) -> Path | None:
    if named is None:
        return None
    if not named:
        return usual
    return Path(named).with_name(usual.name) if copied else Path(named)


def _tpm(root: ET.Element, usual: Path, copied: bool) -> Path | None:
    backend = root.find("./devices/tpm/backend[@type='emulator']")
    if backend is None:
        return None
    source = backend.find("source")
    if copied or source is None or not source.get("path"):
        return usual
    path = Path(source.get("path", ""))
    return path.parent if source.get("type") == "file" else path


def _members(archive: bytes) -> Iterator[tuple[PurePosixPath, bytes]]:
    """The files of ``tpm.tar``. Raises DamagedData for a name that leads out of the directory."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            path, content = PurePosixPath(member.name), tar.extractfile(member)
            if path.is_absolute() or ".." in path.parts:
                raise DamagedData(f"{TPM} holds a file {member.name!r} that leads elsewhere")
            if content is not None:
                yield path, content.read()
