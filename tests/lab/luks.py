"""Encrypted disks: LUKS images, secrets of libvirt's, and machines that have both."""

from __future__ import annotations

import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import libvirt

from puller.cancelling import CancelScope
from puller.host.passphrases import handed_over
from puller.hypervisor.domain.disks.encryption import encryption_element
from puller.hypervisor.space.seal import create
from tests.lab.machine import DiskSpec, Machine, MachineError, domain_xml, image_path

PASSPHRASE = b"open sesame, hush"


def make_image(path: Path, spec: DiskSpec) -> None:
    """A LUKS image whose format is ``raw`` or ``qcow2``, as fast to open as may be."""
    if spec.format == "qcow2":
        option = "encrypt.format=luks,encrypt.key-secret=key0,encrypt.iter-time=10"
        create(CancelScope(), PASSPHRASE, "-o", option, "--", str(path), str(spec.size))
        return
    for _ in range(100):  # QEMU's measuring fails where processor time is counted in ticks
        with handed_over([PASSPHRASE]) as handed:
            words = ["-q", "-f", "luks", *handed.options, "-o", "key-secret=key0,iter-time=10"]
            command = ["qemu-img", "create", *words, str(path), str(spec.size)]
            if not subprocess.run(
                command, check=False, capture_output=True, pass_fds=handed.descriptors
            ).returncode:
                return
    raise MachineError(f"qemu-img cannot make {path}")


def define_secret(connection: Any, private: str = "no", uuid: str | None = None) -> str:
    """The passphrase as a secret of libvirt's, also in the place of one; returns its UUID."""
    root = ET.Element("secret", ephemeral="no", private=private)
    if uuid is not None:
        ET.SubElement(root, "uuid").text = uuid
        with suppress(libvirt.libvirtError):  # its privacy cannot be changed
            connection.secretLookupByUUIDString(uuid).undefine()
    secret = connection.secretDefineXML(ET.tostring(root, encoding="unicode"))
    secret.setValue(PASSPHRASE)
    return str(secret.UUIDString())


def machine(
    connection: Any, name: str, root: Path, directory: Path, secret: str, disks: Sequence[DiskSpec]
) -> Machine:
    """A machine that stands still, whose disks are all encrypted; ``root`` is as of EmbeddedLibvirt."""
    for spec in disks:
        make_image(image_path(directory, name, spec.target), spec)
    description = ET.fromstring(domain_xml(name, directory, disks))
    for source in description.findall("./devices/disk/source"):
        source.append(encryption_element(secret))
    made = Machine(connection.defineXML(ET.tostring(description, encoding="unicode")), root, directory)
    made.start()
    return made
