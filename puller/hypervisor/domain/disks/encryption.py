"""Encryption of an image, from a domain's XML: https://libvirt.org/formatstorageencryption.html.

The guest sees decrypted data. libvirt keeps the passphrase as a secret and gives it to QEMU.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Encryption:
    """Encryption ``format`` (``luks``) of an image whose format is ``image`` (``raw``, ``qcow2``).

    ``uuid`` or ``usage`` names libvirt's secret with the passphrase; both are empty if the XML names none.
    """

    format: str
    image: str
    uuid: str
    usage: str


def parse_encryption(element: ET.Element, image_format: str) -> Encryption | None:
    """Return the encryption of a ``<disk>`` or ``<backingStore>`` with ``image_format``, or None."""
    found = element.find("./source/encryption")
    if found is None:
        found = element.find("./encryption")  # the place in older definitions
    if found is None or found.get("format") is None:
        return None
    secret = found.find("./secret")
    named = {} if secret is None else secret.attrib
    return Encryption(found.get("format", ""), image_format, named.get("uuid", ""), named.get("usage", ""))


def encryption_element(uuid: str) -> ET.Element:
    """Return ``<encryption>`` for a new image whose passphrase is libvirt's secret ``uuid``."""
    element = ET.Element("encryption", format="luks")
    ET.SubElement(element, "secret", type="passphrase", uuid=uuid)
    return element
