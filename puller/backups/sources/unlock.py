"""Keys of a disk's encrypted images: libvirt's secrets, for QEMU's programs.

A point holds the decrypted content that the guest sees, whether the guest runs or not.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

from puller.errors import UnsupportedDisk
from puller.hypervisor.domain.disks.disk import Disk
from puller.hypervisor.domain.disks.image import describe
from puller.hypervisor.domain.disks.storage_node import StorageNode
from puller.hypervisor.domain.domain import Domain
from puller.hypervisor.secret import auth_value, passphrase
from puller.nbd.image import Key, Keys, Remote


def keys_of(domain: Domain, disk: Disk) -> Keys:
    """Return the keys of the disk's image and of those behind it.

    Raises UnsupportedDisk if libvirt does not give the value of a secret.
    """
    return tuple(
        None if found is None else Key(found.image, passphrase(domain, disk.target, found))
        for found in disk.encryption
    )


def remote_image(domain: Domain, disk: Disk) -> Remote | None:
    """Return the image of a disk that is not a file or device of the host; None if puller cannot open it.

    Raises UnsupportedDisk if libvirt does not give the value of its secret.
    """
    return None if disk.node is None else opened_image(domain, disk.target, disk.source, disk.node)


def opened_image(domain: Domain, target: str, name: str, node: StorageNode) -> Remote:
    """Return the image at ``node``, with libvirt's secret for its server; ``name`` is for messages.

    Raises UnsupportedDisk if libvirt does not give the value of the secret.
    """
    options, secret = json.loads(node.options), node.secret
    if secret is None:
        return Remote(name, options)
    value = auth_value(domain, target, secret)
    return Remote(name, options, secret.option, base64.b64encode(value) if secret.is_base64 else value)


def require_keys(domain: Domain, disk: Disk, keys: Keys) -> None:
    """Raise UnsupportedDisk if an image of the disk is encrypted and ``keys`` have none for it."""
    if disk.path is not None:
        require_keys_for(domain, disk, keys, describe(disk.path, disk.format, domain.scope, domain.host))


def require_keys_for(domain: Domain, disk: Disk, keys: Keys, images: Sequence[dict[str, Any]]) -> None:
    """As ``require_keys``, for ``images`` that ``describe`` has returned of the disk."""
    for number, image in enumerate(images):
        if image.get("encrypted") and (number >= len(keys) or keys[number] is None):
            raise UnsupportedDisk(
                f"cannot open the encrypted image {image['filename']} of disk {disk.target} of domain "
                f"{domain.name}: the domain's XML names no secret for it",
                advice="Add <encryption> with its secret to the image in the domain's XML, or leave the disk "
                f"out with --exclude-disk {disk.target}.",
            )


def encryption_of(disk: Disk) -> str:
    """Return the disk's encryption on its host, for its record; empty if it has none."""
    return "" if disk.lock is None else disk.lock.format
