"""The disks of a domain: what its XML says about them, and which of them a backup takes.

See https://libvirt.org/formatdomain.html#hard-drives-floppy-disks-cdroms.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os.path import normpath
from pathlib import Path

from puller.errors import NoSuchDisk, UnsupportedDisk
from puller.hypervisor.domain.disks.encryption import Encryption, parse_encryption
from puller.hypervisor.domain.disks.storage_node import StorageNode, parse_node

_SOURCE_ATTRIBUTES = {
    "file": "file",
    "block": "dev",
    "dir": "dir",
    "vhostuser": "path",
    "vhostvdpa": "dev",
}
_VHOST = {"vhostuser": "vhost-user", "vhostvdpa": "vhost-vdpa"}


_SD = "an SD card, for which libvirt has no backup job"


@dataclass(frozen=True, slots=True)
class DataFileFacts:
    """Facts about the external data file of a qcow2 image, a file or a device; see ImageFacts."""

    path: str
    inode: int = 0
    born: str = ""
    size: int = 0
    modified: str = ""


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """Facts that distinguish one image file from another, and one start of QEMU from the next.

    ``born`` is the file's birth time, ``qemu`` identifies the run of the domain, and ``modified`` is when
    the image was written to last, if its data is in the external file ``data``. Unknown values are empty or
    0.
    """

    inode: int = 0
    born: str = ""
    size: int = 0
    qemu: str = ""
    modified: str = ""
    data: DataFileFacts | None = None


@dataclass(frozen=True, slots=True)
class Disk:
    """One ``<disk>`` of a domain.

    Attributes:
        target: Name in the domain, such as ``vda``.
        type: Kind of its source: ``file``, ``block``, ``network``, ``volume`` and so on, or ``a slice`` if
            the disk is only a part of a source.
        source: Name of the source for people, empty if it has none.
        path: File or device node of the source on this host, or None.
        format: Image format (``qcow2``, ``raw``).
        device: What the guest sees (``disk``, ``lun``, ``cdrom``, ``floppy``).
        backing: Backing images, nearest first, each by format and source; known while the domain is active.
        encryption: Encryption of the image and of each backing image, or None, as far as the XML says. The
            guest does not see it.
        facts: Set by a backup.
        compat: Version of a qcow2 image, ``0.10`` or ``1.1``, once its image was read.
        cluster: Bytes in a cluster of a qcow2 image, once its image was read.
        node: Where the image is, if ``path`` is None and puller can open it while the domain is shut off.
        bus: How the guest is given it (``virtio``, ``scsi``, ``sd``).
        data_file: External data file of a qcow2 image, once its image was read; None if it has none.
    """

    target: str
    source: str
    type: str
    format: str
    device: str
    readonly: bool
    transient: bool
    shareable: bool
    path: Path | None
    backing: tuple[str, ...] = ()
    facts: ImageFacts = ImageFacts()
    encryption: tuple[Encryption | None, ...] = ()
    compat: str = ""
    cluster: int | None = None
    data_file: Path | None = None
    node: StorageNode | None = None
    bus: str = ""

    @property
    def is_candidate(self) -> bool:
        """Whether a backup takes this disk unless told otherwise."""
        return self.omission is None

    @property
    def omission(self) -> str | None:
        """Why backups omit the disk unless it is named, as the end of "disk x is …", or None.

        Other machines write to a shareable disk without passing the QEMU that freezes it.
        """
        return self.hindrance or ("shareable" if self.shareable else None)

    @property
    def holds_changes(self) -> bool:
        """Whether the guest keeps data on the disk, so that a point without it is incomplete."""
        return self.device in ("disk", "lun") and self.source != "" and not self.readonly

    @property
    def lock(self) -> Encryption | None:
        """Encryption of the topmost encrypted image of the disk's chain; None if none is encrypted."""
        return next((found for found in self.encryption if found is not None), None)

    @property
    def hindrance(self) -> str | None:
        """Why the disk cannot be backed up, as the end of "disk x is …", or None if it can be.

        libvirt runs no block job on a transient disk. QEMU has no block node for a vhost disk, and does not
        see the writes of a guest's own SCSI commands to a lun.
        """
        if self.type in _VHOST:
            return f"a {_VHOST[self.type]} disk, whose data does not pass through QEMU"
        if self.device == "lun":
            return "passed through as a lun, to which the guest can write without passing QEMU"
        if self.device != "disk" or self.bus == "sd":
            return f"a {self.device}" if self.device != "disk" else _SD
        if self.source == "":
            return "empty"
        if self.readonly:
            return "read-only"
        return "transient" if self.transient else None


def parse_disks(xml: str) -> tuple[Disk, ...]:
    """Return the disks in a domain's XML, in its order."""
    return tuple(_parse(element) for element in ET.fromstring(xml).findall("./devices/disk"))


def select(
    domain: str,
    disks: Sequence[Disk],
    include: Sequence[str],
    exclude: Sequence[str],
    exclude_if_present: Sequence[str] = (),
) -> tuple[Disk, ...]:
    """Return the disks that a backup of ``domain`` takes: ``include`` or all candidates, less ``exclude``.

    The result is empty for a domain without candidates, or if all of them are excluded if present.

    Raises :class:`NoSuchDisk` for a target of ``include`` or ``exclude`` that the domain does not have, and
    if these leave no disk; :class:`UnsupportedDisk` for a disk that cannot be backed up.
    """
    _refuse_unknown(domain, disks, [*include, *exclude])
    wanted = [disk for disk in disks if (disk.target in include if include else disk.is_candidate)]
    chosen = tuple(disk for disk in wanted if disk.target not in {*exclude, *exclude_if_present})
    if not chosen and (include or any(disk.target in exclude for disk in wanted)):
        raise NoSuchDisk(f"domain {domain} has no disk to back up", advice=_known(disks))
    for disk in chosen:
        if disk.hindrance is not None:
            raise UnsupportedDisk(
                f"cannot back up disk {disk.target} of domain {domain}: it is {disk.hindrance}",
                advice=f"Leave it out with --exclude-disk {disk.target}.",
            )
    return chosen


def _refuse_unknown(domain: str, disks: Sequence[Disk], targets: Sequence[str]) -> None:
    for target in targets:
        if all(disk.target != target for disk in disks):
            raise NoSuchDisk(f"domain {domain} has no disk {target}", advice=_known(disks))


def _known(disks: Sequence[Disk]) -> str:
    """Return advice that names the existing disks."""
    names = ", ".join(disk.target for disk in disks)
    return (
        f"Choose one of its disks: {names}."
        if names
        else "Omit --disk and --exclude-disk: the domain has no disk."
    )


def _parse(element: ET.Element) -> Disk:
    source = element.find("source")
    kind = element.get("type", "file")
    if kind == "volume" and _attribute(source, "mode") == "direct":
        kind, described = "network", _describe("volume", source)  # QEMU itself connects to the pool's server
    else:
        described = _describe(kind, source)
    slices = () if source is None else tuple(map(_slice, source.findall("./slices/slice")))
    driver = element.find("driver")
    return Disk(
        target=_attribute(element.find("target"), "dev"),
        source=" ".join((described, *slices)),
        type="a slice" if slices else kind,
        format=_attribute(driver, "type") or "raw",
        device=element.get("device", "disk"),
        readonly=element.find("readonly") is not None,
        transient=element.find("transient") is not None,
        shareable=element.find("shareable") is not None,
        path=None if slices else _path(kind, source),
        backing=tuple(_chain(element)),
        encryption=tuple(_encryption(element, _attribute(driver, "type") or "raw")),
        node=parse_node(kind, source),
        bus=_attribute(element.find("target"), "bus"),
    )


def _slice(element: ET.Element) -> str:
    return f"({element.get('size')} bytes from {element.get('offset')})"


def image_name(image_format: str, source: str) -> str:
    """Return one image of a chain as text, the same whether libvirt or the image above it names it."""
    return f"{image_format} {normpath(source) if source.startswith('/') else source}"


def _chain(element: ET.Element) -> Iterator[str]:
    """Return the images behind a ``<disk>`` or ``<backingStore>``; an empty element ends the chain."""
    behind = element.find("backingStore")
    if behind is not None and (kind := behind.get("type")) is not None:
        yield image_name(_attribute(behind.find("format"), "type"), _describe(kind, behind.find("source")))
        yield from _chain(behind)


def _encryption(element: ET.Element, image_format: str) -> Iterator[Encryption | None]:
    """Return the encryption of a ``<disk>`` or ``<backingStore>`` and of the images behind it."""
    yield parse_encryption(element, image_format)
    behind = element.find("backingStore")
    if behind is not None and behind.get("type") is not None:
        yield from _encryption(behind, _attribute(behind.find("format"), "type"))


def _describe(kind: str, source: ET.Element | None) -> str:
    """Return a source as one word: a path, ``protocol:name`` or ``pool/volume``."""
    if kind == "network":
        protocol, name = _attribute(source, "protocol"), _attribute(source, "name")
        return f"{protocol}:{name}" if protocol else ""
    if kind == "volume":
        pool, volume = _attribute(source, "pool"), _attribute(source, "volume")
        return f"{pool}/{volume}" if volume else ""
    if kind in _SOURCE_ATTRIBUTES:
        return _attribute(source, _SOURCE_ATTRIBUTES[kind])
    return kind  # nvme and future types: it holds data, so it must not pass for an empty disk


def _path(kind: str, source: ET.Element | None) -> Path | None:
    path = _attribute(source, _SOURCE_ATTRIBUTES[kind]) if kind in ("file", "block") else ""
    return Path(path) if path else None


def _attribute(element: ET.Element | None, name: str) -> str:
    return "" if element is None else element.get(name, "")
