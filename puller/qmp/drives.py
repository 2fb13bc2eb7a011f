"""The disks of a QEMU, from what ``query-block`` says."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puller.errors import UnsupportedDisk
from puller.hypervisor.domain.disks.disk import Disk, image_name

_PASSED_THROUGH = frozenset({"scsi-generic", "scsi-block"})
"""Devices whose guest can write with SCSI commands of its own."""

_LOGIN = re.compile(r"(?<=://)([^/@:%]*)[:%][^/@]*@")
"""User and password in a URL: after a colon, for iSCSI after a percent sign."""

_RBD_KEY = re.compile(r"(?<=[^:]):(?:key|password)=[^:]*")
"""The key in ``rbd:pool/image:id=name:key=…``."""

_FILTER = "copy-before-write"
"""The node that QEMU puts above a disk's image while a backup job is open."""


@dataclass(frozen=True, slots=True)
class Bitmap:
    """A dirty bitmap of a disk's image. ``usable`` is whether it records and is consistent."""

    name: str
    usable: bool
    dirty_bytes: int


@dataclass(frozen=True, slots=True)
class Drive:
    """A disk, the block ``node`` that is its image, and its ``size`` in bytes."""

    disk: Disk
    node: str
    size: int
    encrypted: bool
    bitmaps: tuple[Bitmap, ...]

    def bitmap(self, name: str) -> Bitmap | None:
        """Return the bitmap of this name, or None."""
        return next((bitmap for bitmap in self.bitmaps if bitmap.name == name), None)


def parse_drives(
    blocks: Sequence[Mapping[str, Any]], nodes: Sequence[Mapping[str, Any]], kinds: Mapping[str, str]
) -> tuple[Drive, ...]:
    """Return the disks in answers of ``query-block`` and ``query-named-block-nodes``.

    ``kinds`` are types of devices by object path. Raises UnsupportedDisk if two disks have one name.
    """
    drives = tuple(_parse(block, nodes, kinds.get(block.get("qdev", ""), "")) for block in blocks)
    twice = [name for name, count in Counter(drive.disk.target for drive in drives).items() if count > 1]
    if twice:
        raise UnsupportedDisk(
            f"two disks have the name {twice[0]}",
            advice="Give each -drive or -device an id of its own, and start the machine again.",
        )
    return drives


def _parse(block: Mapping[str, Any], nodes: Sequence[Mapping[str, Any]], kind: str) -> Drive:
    inserted = _below_filter(block.get("inserted") or {}, nodes)
    image: Mapping[str, Any] = inserted.get("image") or {}
    path = file_of(inserted.get("file", ""))
    layout = image.get("format-specific", {}).get("data", {})
    disk = Disk(
        target=_target(block, inserted),
        source=_source(inserted.get("file", "")),
        type="network" if path is None else "block" if path.is_block_device() else "file",
        format=inserted.get("drv", "raw"),
        device="lun" if kind in _PASSED_THROUGH else "removable medium" if block["removable"] else "disk",
        readonly=inserted.get("ro", False),
        transient=False,
        shareable=False,
        path=path,
        backing=tuple(_chain(image)),
        compat=layout.get("compat", ""),
        cluster=image.get("cluster-size"),
        data_file=_data_file(path, layout.get("data-file")),
    )
    return Drive(
        disk=disk,
        node=inserted.get("node-name", ""),
        size=image.get("virtual-size", 0),
        encrypted=_is_encrypted(inserted, image),
        bitmaps=tuple(_bitmap(item) for item in inserted.get("dirty-bitmaps", []) if "name" in item),
    )


def _below_filter(inserted: Mapping[str, Any], nodes: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the image below the filter that a backup job has put above it; the same without a filter."""
    if inserted.get("drv") != _FILTER:
        return inserted
    image = inserted["image"]["backing-image"]
    wanted = inserted["file"], image["format"]
    below = next((node for node in nodes if (node["file"], node["drv"]) == wanted), inserted)
    return {**below, "image": image}


def _target(block: Mapping[str, Any], inserted: Mapping[str, Any]) -> str:
    """Return the id of the drive, else of the device, else the node's name: what its user has chosen."""
    names = (block.get("device", ""), _device_id(block.get("qdev", "")), inserted.get("node-name", ""))
    return next((name for name in names if name), "")


def _device_id(path: str) -> str:
    """Return the id in the object path of a device; empty if it has none, and QEMU has numbered it."""
    name = path.removesuffix("/virtio-backend").rpartition("/")[2]
    return "" if name.startswith("device[") else name


def _source(file: str) -> str:
    """Return a source as it may be shown and stored in points, even without encryption."""
    return "" if not file else str(file_of(file) or _without_passwords(file))


def _without_passwords(name: str) -> str:
    """Return QEMU's name of an image without its credentials, as in ``iscsi://user%password@…``."""
    return _RBD_KEY.sub("", _LOGIN.sub(r"\1@", name))


def file_of(file: str) -> Path | None:
    """Return the file or device of an image; QEMU writes one with options as ``json:{…}``."""
    if file.startswith("/"):
        return Path(file)
    if not file.startswith("json:"):
        return None
    node = json.loads(file.removeprefix("json:"))
    while isinstance(node.get("file"), dict):
        node = node["file"]
    name = node.get("filename", "") if node.get("driver") in ("file", "host_device") else ""
    return Path(name) if name.startswith("/") else None


def _data_file(image: Path | None, named: str | None) -> Path | None:
    """Return the external data file that a qcow2 image names, perhaps relative to its own directory."""
    return None if image is None or named is None else image.parent / named


def _chain(image: Mapping[str, Any]) -> Iterator[str]:
    behind = image.get("backing-image")
    while behind is not None:
        yield image_name(behind["format"], _source(behind["filename"]))
        behind = behind.get("backing-image")


def _is_encrypted(inserted: Mapping[str, Any], image: Mapping[str, Any]) -> bool:
    layers = [image]
    while (behind := layers[-1].get("backing-image")) is not None:
        layers.append(behind)
    named = any(layer.get("encrypted") or layer.get("format") == "luks" for layer in layers)
    return bool(inserted.get("encrypted")) or named


def _bitmap(item: Mapping[str, Any]) -> Bitmap:
    usable = item["recording"] and item["persistent"] and not item.get("inconsistent", False)
    return Bitmap(item["name"], usable, item["count"])
