"""What ``qemu-img`` says of an image file on this host."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from puller.cancelling import CancelScope
from puller.errors import HypervisorError
from puller.host.qemu import Failure, qemu_img
from puller.hypervisor.domain.disk import Disk, image_name

_INFO_SECONDS = 60.0
"""How long a look at an image may take, which reads some blocks of it. A job may be open meanwhile."""


def looked_into(disk: Disk, scope: CancelScope | None = None) -> Disk:
    """The disk with what its image says; unchanged if that is not qcow2 or cannot be read from here."""
    if disk.path is None or disk.format != "qcow2":
        return disk
    with suppress(HypervisorError):
        return with_layout(disk, image_facts(disk.path, disk.format, scope))
    return disk


def with_layout(disk: Disk, facts: dict[str, Any]) -> Disk:
    """The disk with what ``facts`` say of its qcow2 image."""
    return replace(disk, compat=layout(facts)["compat"], cluster=facts["cluster-size"])


def untracked(disk: Disk) -> str | None:
    """Why the disk, which was looked into, can have no lasting dirty bitmap, hence no checkpoint; or None.

    QEMU stores bitmaps in qcow2 images from version 3 on (compat 1.1). Without this look libvirt's begin
    fails only after it has made scratch files: "Cannot store dirty bitmaps in qcow2 v2 files".
    """
    if disk.format != "qcow2":
        return f"a {disk.format} image has no dirty bitmap"
    if disk.compat == "0.10":
        return "a qcow2 image of version 2 has no dirty bitmap (see 'qemu-img amend -o compat=1.1')"
    return None


def describe(path: Path, image_format: str, scope: CancelScope | None = None) -> list[dict[str, Any]]:
    """Facts of the image and of those behind it, the image itself first. See :func:`image_facts`."""
    return list(_info(path, image_format, scope, "--backing-chain"))


def image_facts(path: Path, image_format: str, scope: CancelScope | None = None) -> dict[str, Any]:
    """What ``qemu-img info`` says of the image; those behind it are not opened.

    It waits for no lock, so of an image in use it tells what is stored: bitmaps that QEMU holds are
    marked ``in-use``. Raises :class:`HypervisorError` if the image cannot be read.
    """
    return dict(_info(path, image_format, scope))


def layout(facts: dict[str, Any]) -> dict[str, Any]:
    """What the format of an image says, beyond what all formats do."""
    return dict(facts.get("format-specific", {}).get("data", {}))


def _info(path: Path, image_format: str, scope: CancelScope | None, *options: str) -> Any:
    words = ["info", "--force-share", "--output=json", *options, "-f", image_format, "--"]
    advice = f"See 'qemu-img check {path}', and who may read it."
    failure = Failure(HypervisorError, f"qemu-img cannot read {path}", advice)
    return json.loads(qemu_img([*words, str(path.absolute())], _INFO_SECONDS, failure, scope=scope))


def files_of(path: Path, image_format: str, scope: CancelScope | None = None) -> tuple[Path, ...]:
    """The files and devices of this host that the image at ``path`` is made of, itself the first.

    These are the images behind it, and those files beside each that hold its data: a qcow2 image may have
    one, a VMDK image several. What is elsewhere (``nbd://``, ``json:``) is left out. Raises HypervisorError.
    """
    found: dict[Path, None] = {path: None}
    for image in describe(path, image_format, scope):
        home = Path(image["filename"])
        data = layout(image)
        beside = [data.get("data-file"), *(extent["filename"] for extent in data.get("extents", []))]
        found |= dict.fromkeys((home, *(home.parent / name for name in beside if name)))
    return tuple(file for file in found if file.exists())


def with_stored_chain(disk: Disk, scope: CancelScope | None = None) -> Disk:
    """The disk of a domain that is shut off, with the images that its own one says are behind it.

    Of a disk that cannot be incremental those are not looked at. Raises :class:`HypervisorError`.
    """
    if disk.path is None or untracked(disk) is not None:
        return disk
    behind = describe(disk.path, disk.format, scope)[1:]
    return replace(disk, backing=tuple(image_name(image["format"], image["filename"]) for image in behind))


def stored_bitmaps(facts: dict[str, Any]) -> dict[str, frozenset[str]]:
    """The dirty bitmaps in one image of :func:`describe`, each with its flags.

    ``auto`` says that it records whenever the image is written; ``in-use`` that the last who wrote the
    image has not closed it in order, so that the bitmap cannot be trusted.
    """
    return {bitmap["name"]: frozenset(bitmap["flags"]) for bitmap in layout(facts).get("bitmaps", [])}
