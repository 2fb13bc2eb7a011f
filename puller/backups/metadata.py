"""Data of a domain besides its disks, for the attachments of a point.

=================  =====================================================================================
``domain.xml``     the definition for its next start, from which it can be defined again
``live.xml``       the current definition, if it is active
``nvram.fd``       the variables of its UEFI firmware
``varstore.json``  the same, of firmware that keeps them in QEMU's ``uefi-vars`` device
``tpm.tar``        the state of its emulated TPM
``qemu.json``      in place of the XML, what a QEMU without libvirt says of its machine
``kernel`` …       files that it starts with: kernel, initrd, device tree, ACPI tables, fw_cfg files, firmware
``sda.iso`` …      media in its drives, if they are small
``snapshots.xml``  libvirt's records of its snapshots; ``checkpoints.xml``, of other tools' checkpoints
``images.json``    by target, what ``qemu-img info`` says of the image and of all behind it
=================  =====================================================================================

Passwords in the XML and the TPM's state are taken only for a repository that encrypts them.

They are read as soon as the disks are frozen: a guest that installs a boot loader, or seals its disk's key
again, writes both. At the end of the transfer, perhaps hours later, they are compared with their new state.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime

from puller.backups.machines.machine import AttachmentRequest, Machine
from puller.backups.notes import Notes
from puller.errors import HypervisorError
from puller.hypervisor.domain.disks.disk import Disk
from puller.hypervisor.domain.disks.image import describe


def gather(
    machine: Machine, disks: Sequence[Disk], notes: Notes, wanted: AttachmentRequest
) -> Iterator[tuple[str, bytes]]:
    """Return (name, content) of each attachment.

    An attachment that cannot be read is omitted with a note and does not fail the backup, except for a
    required one. Raises HypervisorError.
    """
    for reader in machine.attachments(wanted):
        try:
            content = reader.read()
        except HypervisorError as error:
            if reader.required:
                raise
            notes.add(f"the point has no {reader.name}: {error.message}")
            continue
        if content is not None:
            yield reader.name, content
    for text in machine.lacking(sealed=wanted.sealed):
        notes.add(text)
    if any(disk.path is not None for disk in disks):
        try:
            yield "images.json", _images(disks, machine)
        except HypervisorError as error:
            notes.add(f"the point has no images.json: {error.message}")


class AttachmentSnapshot:
    """The attachments, read when the disks were frozen: ``contents`` by name. Raises HypervisorError.

    ``times`` says when each was read, by the host's clock.
    """

    def __init__(
        self, machine: Machine, disks: Sequence[Disk], notes: Notes, wanted: AttachmentRequest
    ) -> None:
        self._machine = machine
        self._wanted = wanted
        self.contents: dict[str, bytes] = {}
        self.times: dict[str, datetime] = {}
        for name, content in gather(machine, disks, notes, wanted):
            self.contents[name] = content
            self.times[name] = datetime.now(UTC)

    def compare(self, notes: Notes) -> None:
        """Note attachments that changed since. Those that cannot be read any more are skipped."""
        for reader in self._machine.attachments(self._wanted):
            with suppress(HypervisorError):
                if reader.name in self.contents and self.contents[reader.name] != reader.read():
                    notes.add(
                        f"{reader.name} changed during the backup: "
                        "the point has its state at the start of the backup"
                    )


def _images(disks: Sequence[Disk], machine: Machine) -> bytes:
    facts = {
        disk.target: describe(disk.path, disk.format, machine.scope, machine.host)
        for disk in disks
        if disk.path is not None
    }
    return json.dumps(facts, indent=1, sort_keys=True).encode()
