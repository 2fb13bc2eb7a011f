"""What belongs to a domain beside its disks, for the attachments of a point.

=================  =====================================================================================
``domain.xml``     what defines it again, as it will be at its next start
``live.xml``       what it is now, if it is active
``nvram.fd``       the variables of its UEFI firmware
``tpm.tar``        the state of its emulated TPM
``images.json``    by target, what ``qemu-img info`` says of the image and of all behind it
=================  =====================================================================================

Passwords in the XML and the TPM's state are taken only for a repository that encrypts them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence

from puller.agent.notes import Notes
from puller.errors import HypervisorError
from puller.hypervisor import firmware
from puller.hypervisor.disk import Disk
from puller.hypervisor.domain import Domain
from puller.hypervisor.image import describe


def gather(
    domain: Domain, disks: Sequence[Disk], notes: Notes, *, sealed: bool
) -> Iterator[tuple[str, bytes]]:
    """(name, content) of each attachment; ``sealed`` says whether the repository is encrypted.

    What cannot be read is left out with a note: no backup fails for it, except that the domain's XML must
    be there. Raises HypervisorError.
    """
    yield "domain.xml", (domain.secure_xml() if sealed else domain.inactive_xml()).encode()
    if domain.is_active():
        yield "live.xml", domain.xml().encode()
    readers: list[tuple[str, Callable[[Domain], bytes | None]]] = [("nvram.fd", firmware.nvram)]
    if sealed:
        readers.append(("tpm.tar", firmware.tpm))
    readers.append(("images.json", lambda _: _images(disks)))
    for name, read in readers:
        try:
            content = read(domain)
        except HypervisorError as error:
            notes.add(f"the point has no {name}: {error.message}")
            continue
        if content is not None:
            yield name, content


def _images(disks: Sequence[Disk]) -> bytes | None:
    facts = {disk.target: describe(disk.path, disk.format) for disk in disks if disk.path is not None}
    return json.dumps(facts, indent=1, sort_keys=True).encode() if facts else None
