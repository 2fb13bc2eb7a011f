"""What opens the encrypted images of a disk: libvirt's secrets, for QEMU's programs.

A point holds what the guest sees, which is inside the encryption, whether the guest runs or not.
"""

from __future__ import annotations

from puller.errors import UnsupportedDisk
from puller.hypervisor.domain.disk import Disk
from puller.hypervisor.domain.domain import Domain
from puller.hypervisor.domain.image import describe
from puller.hypervisor.secret import passphrase
from puller.nbd.image import Key, Keys


def keys_of(domain: Domain, disk: Disk) -> Keys:
    """The keys of the disk's image and of those behind it.

    Raises UnsupportedDisk if libvirt does not hand out a secret.
    """
    return tuple(
        None if found is None else Key(found.image, passphrase(domain, disk.target, found))
        for found in disk.encryption
    )


def require_keys(domain: Domain, disk: Disk, keys: Keys) -> None:
    """Raise UnsupportedDisk if an image of the disk is encrypted and ``keys`` have none for it."""
    if disk.path is None:
        return
    for number, image in enumerate(describe(disk.path, disk.format, domain.scope)):
        if image.get("encrypted") and (number >= len(keys) or keys[number] is None):
            raise UnsupportedDisk(
                f"image {image['filename']} of disk {disk.target} of domain {domain.name} is encrypted, "
                "and the domain's XML names no secret for it",
                advice="Add <encryption> with its secret to the image in the domain's XML, or leave the disk "
                f"out with --exclude-disk {disk.target}.",
            )


def encryption_of(disk: Disk) -> str:
    """How the disk is encrypted on its host, for its record; empty if it is not."""
    return "" if disk.lock is None else disk.lock.format
