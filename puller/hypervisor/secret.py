"""libvirt's secrets: the passphrases of encrypted disks, and one for the temporary files of a run.

See https://libvirt.org/formatsecret.html. No message and no ``repr`` contains a value.
"""

from __future__ import annotations

import secrets
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Self

import libvirt

from puller.errors import HypervisorError, UnsupportedDisk
from puller.hypervisor.connection import open_embedded
from puller.hypervisor.domain.checkpoint import owner_prefix
from puller.hypervisor.domain.disks.encryption import Encryption
from puller.hypervisor.domain.disks.storage_node import AuthSecret
from puller.hypervisor.domain.domain import Domain
from puller.hypervisor.faults import text_of, translate
from puller.hypervisor.uri import is_embedded

_USAGE_TYPES = {
    "ceph": libvirt.VIR_SECRET_USAGE_TYPE_CEPH,
    "iscsi": libvirt.VIR_SECRET_USAGE_TYPE_ISCSI,
}

_BYTES = 32
"""Bytes of a random passphrase, used as hexadecimal digits because QEMU accepts only UTF-8."""


def passphrase(domain: Domain, target: str, encryption: Encryption) -> bytes:
    """Return the passphrase of the disk ``target``. Raises UnsupportedDisk if libvirt does not give it."""
    try:
        return bytes(_look_up(domain, encryption).value())
    except libvirt.libvirtError as error:
        name = encryption.uuid or encryption.usage or "(its XML names none)"
        raise UnsupportedDisk(
            f"cannot open the encrypted disk {target} of domain {domain.name}: "
            f"libvirt does not give the value of its secret {name}: {text_of(error)}",
            advice="Set the secret's value and define it with private='no', "
            f"or leave the disk out with --exclude-disk {target}.",
        ) from error


def auth_value(domain: Domain, target: str, named: AuthSecret) -> bytes:
    """Return the value by which a server lets QEMU read the disk. Raises UnsupportedDisk."""
    connection = _connection(domain)
    try:
        if named.uuid:
            return bytes(connection.secretLookupByUUIDString(named.uuid).value())
        kind = _USAGE_TYPES.get(named.usage_type, libvirt.VIR_SECRET_USAGE_TYPE_NONE)
        return bytes(connection.secretLookupByUsage(kind, named.usage).value())
    except libvirt.libvirtError as error:
        raise UnsupportedDisk(
            f"cannot open disk {target} of domain {domain.name}: libvirt does not give the value of its "
            f"secret {named.uuid or named.usage or '(its XML names none)'}: {text_of(error)}",
            advice="Define the secret with private='no', start the domain, "
            f"or leave the disk out with --exclude-disk {target}.",
        ) from error


def uuid_of(domain: Domain, target: str, encryption: Encryption) -> str:
    """Return the UUID of the secret with the passphrase. Raises HypervisorError."""
    with translate(f"cannot look up the secret of disk {target} of domain {domain.name}"):
        return str(_look_up(domain, encryption).UUIDString())


class Throwaway:
    """A random passphrase that libvirt holds as the secret ``uuid`` while the context lasts.

    The secret is only in libvirt's memory (``ephemeral``), and no client can read it (``private``). Its
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
            # libvirt 9.0's embedded secret driver crashes if an ephemeral secret is added or any is removed.
            raise HypervisorError("libvirt's embedded driver cannot hold a secret for temporary files")
        with translate(f"cannot create a secret for temporary files of domain {self._domain.name}"):
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
        with suppress(
            libvirt.libvirtError
        ):  # the next run removes it, unless a restart of libvirt already has
            self._secret.undefine()

    def _xml(self) -> str:
        root = ET.Element("secret", ephemeral="yes", private="yes")
        ET.SubElement(root, "description").text = "temporary files of a backup by puller"
        ET.SubElement(ET.SubElement(root, "usage", type="volume"), "volume").text = self._usage
        return ET.tostring(root, encoding="unicode")


def usage(checkpoint: str, uuid: str) -> str:
    """Return the usage of the secret of the run that creates ``checkpoint`` of the domain ``uuid``."""
    return f"{checkpoint}-{uuid}"


def sweep_secrets(domain: Domain, repository_ids: Iterable[str]) -> tuple[str, ...]:
    """Remove the secrets of dead runs over ``domain``; return their usages. Call it with its lock held.

    A libvirt without a secret driver has nothing to remove.
    """
    connection = _connection(domain)
    owned = tuple(owner_prefix(each) for each in repository_ids)
    removed = []
    with suppress(libvirt.libvirtError):
        if is_embedded(connection.getURI()):
            return ()
        for secret in connection.listAllSecrets():
            name = str(secret.usageID())
            if name.startswith(owned) and name.endswith(f"-{domain.uuid}"):
                secret.undefine()
                removed.append(name)
    return tuple(removed)


def _look_up(domain: Domain, encryption: Encryption) -> Any:
    connection = _connection(domain)
    if encryption.uuid:
        return connection.secretLookupByUUIDString(encryption.uuid)
    return connection.secretLookupByUsage(libvirt.VIR_SECRET_USAGE_TYPE_VOLUME, encryption.usage)


def _connection(domain: Domain) -> Any:
    """Return the connection for secrets of the domain's host; an embedded driver has a separate one."""
    with translate(f"cannot list the secrets for domain {domain.name}"):
        connection = domain.handle.connect()
        uri = str(connection.getURI())
        return open_embedded(uri.replace("qemu:", "secret:", 1)) if is_embedded(uri) else connection
