"""What ``qemu-img`` says about an image file of a host."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from puller.cancelling import CancelScope
from puller.errors import HypervisorError
from puller.host.access import LOCAL, HostAccess
from puller.host.qemu import Failure, qemu_img
from puller.hypervisor.domain.disks.disk import Disk, image_name

_INFO_SECONDS = 60.0
"""Seconds that ``qemu-img info`` may take. A job may be open meanwhile."""


def with_image_facts(disk: Disk, scope: CancelScope | None = None, host: HostAccess = LOCAL) -> Disk:
    """Return the disk with facts from its image; unchanged if that is not qcow2 or cannot be read."""
    if disk.path is None or disk.format != "qcow2":
        return disk
    with suppress(HypervisorError):
        return with_layout(disk, image_facts(disk.path, disk.format, scope, host))
    return disk


def with_layout(disk: Disk, facts: dict[str, Any]) -> Disk:
    """Return the disk with ``facts`` about its qcow2 image."""
    named = layout(facts).get("data-file")
    data_file = None if disk.path is None or named is None else disk.path.parent / named
    return replace(disk, compat=layout(facts)["compat"], cluster=facts["cluster-size"], data_file=data_file)


def untracked(disk: Disk) -> str | None:
    """Return why the disk can have no persistent dirty bitmap, hence no checkpoint; or None.

    The disk must come from ``with_image_facts``. QEMU stores bitmaps in qcow2 images from version 3 on
    (compat 1.1). Without this check, libvirt fails only after it has created scratch files: "Cannot store
    dirty bitmaps in qcow2 v2 files".
    """
    if disk.format != "qcow2":
        return f"a {disk.format} image cannot hold a dirty bitmap"
    if disk.compat == "0.10":
        return "a qcow2 image of version 2 cannot hold a dirty bitmap (see 'qemu-img amend -o compat=1.1')"
    return None


def describe(
    path: Path, image_format: str, scope: CancelScope | None = None, host: HostAccess = LOCAL
) -> list[dict[str, Any]]:
    """Return facts about the image and those behind it, the image itself first. See :func:`image_facts`."""
    return list(_info(path, image_format, scope, host, "--backing-chain"))


def image_facts(
    path: Path, image_format: str, scope: CancelScope | None = None, host: HostAccess = LOCAL
) -> dict[str, Any]:
    """Return what ``qemu-img info`` says about the image; the images behind it are not opened.

    It waits for no lock, so for an image in use it returns the stored state: bitmaps that QEMU holds are
    marked ``in-use``. Raises :class:`HypervisorError` if the image cannot be read.
    """
    return dict(_info(path, image_format, scope, host))


def layout(facts: dict[str, Any]) -> dict[str, Any]:
    """Return the facts that are specific to the image's format."""
    return dict(facts.get("format-specific", {}).get("data", {}))


def _info(path: Path, image_format: str, scope: CancelScope | None, host: HostAccess, *options: str) -> Any:
    words = ["info", "--force-share", "--output=json", *options, "-f", image_format, "--"]
    advice = f"Run 'qemu-img check {path}', and check that puller may read the image."
    failure = Failure(HypervisorError, f"qemu-img cannot read {path}", advice)
    return json.loads(
        qemu_img([*words, str(path.absolute())], _INFO_SECONDS, failure, host=host, scope=scope)
    )


def files_of(
    path: Path, image_format: str, scope: CancelScope | None = None, host: HostAccess = LOCAL
) -> tuple[Path, ...]:
    """Return the files and devices of the host that make up the image at ``path``, itself first.

    These are the images behind it, and the external data files of each: a qcow2 image may have one, a VMDK
    image several. Sources elsewhere (``nbd://``, ``json:``) are omitted. Raises HypervisorError.
    """
    found: dict[Path, None] = {path: None}
    for image in describe(path, image_format, scope, host):
        home = Path(image["filename"])
        data = layout(image)
        beside = [data.get("data-file"), *(extent["filename"] for extent in data.get("extents", []))]
        found |= dict.fromkeys((home, *(home.parent / name for name in beside if name)))
    return tuple(file for file in found if host.status(file) is not None)


def with_stored_chain(disk: Disk, scope: CancelScope | None = None, host: HostAccess = LOCAL) -> Disk:
    """Return the disk of a shut-off domain with the backing images that its image names.

    A disk that cannot be incremental is returned unchanged. Raises :class:`HypervisorError`.
    """
    if disk.path is None or untracked(disk) is not None:
        return disk
    return with_chain(disk, describe(disk.path, disk.format, scope, host))


def with_chain(disk: Disk, images: Sequence[dict[str, Any]]) -> Disk:
    """Return the disk with the backing images in ``images``, which ``describe`` has returned of it.

    A disk that cannot be incremental is returned unchanged.
    """
    if untracked(disk) is not None:
        return disk
    names = (image_name(image["format"], image["filename"]) for image in images[1:])
    return replace(disk, backing=tuple(names))


def stored_bitmaps(facts: dict[str, Any]) -> dict[str, frozenset[str]]:
    """Return the dirty bitmaps in one image of :func:`describe`, each with its flags.

    ``auto`` means that it records whenever the image is written; ``in-use`` means that the last writer of
    the image did not close it cleanly, so that the bitmap cannot be trusted.
    """
    return {bitmap["name"]: frozenset(bitmap["flags"]) for bitmap in layout(facts).get("bitmaps", [])}
