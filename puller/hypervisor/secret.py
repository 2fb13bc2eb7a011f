"""libvirt's secrets: the passphrases of encrypted disks, and one of a run's own for its temporary files.

See https://libvirt.org/formatsecret.html. A value is in no message, and in no ``repr``.
"""

from __future__ import annotations

import secrets
import xml.etree.ElementTree as ET
from contextlib import suppress
from typing import Any, Self

import libvirt

from puller.errors import HypervisorError, UnsupportedDisk
from puller.hypervisor.connection import open_embedded
from puller.hypervisor.domain.checkpoint import owner_prefix
from puller.hypervisor.domain.domain import Domain
from puller.hypervisor.domain.encryption import Encryption
from puller.hypervisor.faults import text_of, translate
from puller.hypervisor.uri import is_embedded

_BYTES = 32
"""Of a random passphrase, which is their hexadecimal digits: QEMU takes no others than UTF-8."""


def passphrase(domain: Domain, target: str, encryption: Encryption) -> bytes:
    """What opens an image of the disk ``target``. Raises UnsupportedDisk if libvirt does not hand it out."""
    try:
        return bytes(_look_up(domain, encryption).value())
    except libvirt.libvirtError as error:
        name = encryption.uuid or encryption.usage or "that its XML does not name"
        raise UnsupportedDisk(
            f"disk {target} of domain {domain.name} is encrypted, "
            f"and libvirt does not hand out its secret {name}: {text_of(error)}",
            advice="Set the secret's value, and define it with private='no'; "
            f"or leave the disk out with --exclude-disk {target}.",
        ) from error


def uuid_of(domain: Domain, target: str, encryption: Encryption) -> str:
    """The UUID of the secret with the passphrase. Raises HypervisorError."""
    with translate(f"cannot look up the secret of disk {target} of domain {domain.name}"):
        return str(_look_up(domain, encryption).UUIDString())


class Throwaway:
    """A random passphrase that libvirt knows as a secret while the context lasts: ``uuid``.

    The secret is in libvirt's memory only (``ephemeral``), and libvirt gives it to nobody (``private``). Its
    usage names the checkpoint of the run and the domain, so that the next run can remove it.
    """

    def __init__(self, domain: Domain, checkpoint: str) -> None:
        self._domain = domain
        self._usage = usage(checkpoint, domain.uuid)
        self._secret: Any = None
        self.passphrase = secrets.token_hex(_BYTES).encode()
        self.uuid = ""

    def __enter__(self) -> Self:
        connection = _connection(self._domain)
        if is_embedded(connection.getURI()):
            # libvirt 9.0's embedded driver of secrets crashes when an ephemeral one comes or any one goes.
            raise HypervisorError("libvirt's embedded driver cannot keep a secret for temporary files")
        with translate(f"cannot make a secret for temporary files of domain {self._domain.name}"):
            self._secret = connection.secretDefineXML(self._xml())
            try:
                self._secret.setValue(self.passphrase)
                self.uuid = str(self._secret.UUIDString())
            except BaseException:
                self._undefine()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        self._undefine()

    def _undefine(self) -> None:
        with suppress(libvirt.libvirtError):  # the next run removes it, if a new start of libvirt has not
            self._secret.undefine()

    def _xml(self) -> str:
        root = ET.Element("secret", ephemeral="yes", private="yes")
        ET.SubElement(root, "description").text = "temporary files of a backup by puller"
        ET.SubElement(ET.SubElement(root, "usage", type="volume"), "volume").text = self._usage
        return ET.tostring(root, encoding="unicode")


def usage(checkpoint: str, uuid: str) -> str:
    """What the throw-away secret of the run that makes ``checkpoint`` of the domain ``uuid`` is for."""
    return f"{checkpoint}-{uuid}"


def sweep_secrets(domain: Domain, repository_id: str) -> tuple[str, ...]:
    """Remove what dead runs of ours over ``domain`` left; returns the usages. Call it with its lock held.

    Where libvirt has no secrets at all there is nothing to remove.
    """
    connection = _connection(domain)
    removed = []
    with suppress(libvirt.libvirtError):
        if is_embedded(connection.getURI()):
            return ()
        for secret in connection.listAllSecrets():
            name = str(secret.usageID())
            if name.startswith(owner_prefix(repository_id)) and name.endswith(f"-{domain.uuid}"):
                secret.undefine()
                removed.append(name)
    return tuple(removed)


def _look_up(domain: Domain, encryption: Encryption) -> Any:
    connection = _connection(domain)
    if encryption.uuid:
        return connection.secretLookupByUUIDString(encryption.uuid)
    return connection.secretLookupByUsage(libvirt.VIR_SECRET_USAGE_TYPE_VOLUME, encryption.usage)


def _connection(domain: Domain) -> Any:
    """What knows the secrets of the domain's host. An embedded driver has another connection for them."""
    with translate(f"cannot ask for the secrets of domain {domain.name}"):
        connection = domain.handle.connect()
        uri = str(connection.getURI())
        return open_embedded(uri.replace("qemu:", "secret:", 1)) if is_embedded(uri) else connection
