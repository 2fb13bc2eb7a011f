"""Data of a domain besides its disks, for the attachments of a point.

=================  =====================================================================================
``domain.xml``     the definition for its next start, from which it can be defined again
``live.xml``       the current definition, if it is active
``nvram.fd``       the variables of its UEFI firmware
``varstore.json``  the same, of firmware that keeps them in QEMU's ``uefi-vars`` device
``tpm.tar``        the state of its emulated TPM
``images.json``    by target, what ``qemu-img info`` says of the image and of all behind it
=================  =====================================================================================

Passwords in the XML and the TPM's state are taken only for a repository that encrypts them.

They are read as soon as the disks are frozen: a guest that installs a boot loader, or seals its disk's key
again, writes both. At the end of the transfer, perhaps hours later, they are compared with their new state.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime

from puller.backups.notes import Notes
from puller.errors import HypervisorError
from puller.hypervisor.domain import firmware
from puller.hypervisor.domain.disk import Disk
from puller.hypervisor.domain.domain import Domain
from puller.hypervisor.domain.image import describe


def gather(
    domain: Domain, disks: Sequence[Disk], notes: Notes, *, sealed: bool
) -> Iterator[tuple[str, bytes]]:
    """Return (name, content) of each attachment; ``sealed`` says whether the repository is encrypted.

    An attachment that cannot be read is omitted with a note and does not fail the backup, except for the
    domain's XML. Raises HypervisorError.
    """
    for name, read in _readers(domain, sealed):
        try:
            content = read(domain)
        except HypervisorError as error:
            if name == "domain.xml":
                raise
            notes.add(f"the point has no {name}: {error.message}")
            continue
        if content is not None:
            yield name, content
    if not sealed and firmware.has_tpm(domain):
        notes.add("the point has no tpm.tar: the repository is not encrypted")
    if any(disk.path is not None for disk in disks):
        try:
            yield "images.json", _images(disks, domain)
        except HypervisorError as error:
            notes.add(f"the point has no images.json: {error.message}")


class AttachmentSnapshot:
    """The attachments, read when the disks were frozen: ``contents`` by name. Raises HypervisorError.

    ``times`` says when each was read, by the host's clock.
    """

    def __init__(self, domain: Domain, disks: Sequence[Disk], notes: Notes, *, sealed: bool) -> None:
        self._domain = domain
        self._sealed = sealed
        self.contents: dict[str, bytes] = {}
        self.times: dict[str, datetime] = {}
        for name, content in gather(domain, disks, notes, sealed=sealed):
            self.contents[name] = content
            self.times[name] = datetime.now(UTC)

    def compare(self, notes: Notes) -> None:
        """Note attachments that changed since. Those that cannot be read any more are skipped."""
        for name, read in _readers(self._domain, self._sealed):
            with suppress(HypervisorError):
                if name in self.contents and self.contents[name] != read(self._domain):
                    notes.add(
                        f"{name} changed during the backup: "
                        "the point has its state at the start of the backup"
                    )


def _readers(domain: Domain, sealed: bool) -> Iterator[tuple[str, Callable[[Domain], bytes | None]]]:
    """Readers of attachments that may change at any time."""
    yield "domain.xml", lambda domain: (domain.secure_xml() if sealed else domain.inactive_xml()).encode()
    if domain.is_active():
        yield "live.xml", lambda domain: domain.xml().encode()
    yield "nvram.fd", firmware.nvram
    yield "varstore.json", firmware.varstore
    if sealed:
        yield "tpm.tar", firmware.tpm


def _images(disks: Sequence[Disk], domain: Domain) -> bytes:
    facts = {
        disk.target: describe(disk.path, disk.format, domain.scope, domain.host)
        for disk in disks
        if disk.path is not None
    }
    return json.dumps(facts, indent=1, sort_keys=True).encode()
