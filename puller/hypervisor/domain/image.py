"""What an image file on this host tells of itself.

The header of qcow2 is described in QEMU's ``docs/interop/qcow2.txt``: bytes 0-3 are ``QFI\\xfb``,
bytes 4-7 the version and bytes 20-23 the cluster size as a power of two, both big-endian numbers.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

from puller.cancelling import CancelScope
from puller.errors import HypervisorError
from puller.host import programs
from puller.hypervisor.domain.disk import Disk, image_name

_MAGIC = b"QFI\xfb"

_INFO_SECONDS = 60.0
"""How long a look at an image may take, which reads some blocks of it. A job may be open meanwhile."""

INSTALL = "Install the QEMU tools: package qemu-utils on Debian and Ubuntu, qemu-img on Fedora and RHEL."


def qcow2_version(path: Path) -> int | None:
    """Version of the qcow2 image at ``path``; None if it is none or cannot be read from here."""
    header = _header(path)
    return int.from_bytes(header[4:8], "big") if header[:4] == _MAGIC else None


def _header(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(24)
    except OSError:
        return b""


def cluster_size(path: Path) -> int | None:
    """Bytes of a cluster of the qcow2 image at ``path``; None if it is none or cannot be read from here."""
    header = _header(path)
    return 1 << int.from_bytes(header[20:24], "big") if header[:4] == _MAGIC else None


def untracked(disk: Disk) -> str | None:
    """Why the disk can have no dirty bitmap that lasts, hence no checkpoint; None if it can.

    QEMU stores bitmaps in qcow2 images from version 3 on (compat 1.1). Without this look libvirt's begin
    fails only after it has made scratch files: "Cannot store dirty bitmaps in qcow2 v2 files".
    """
    if disk.format != "qcow2":
        return f"a {disk.format} image has no dirty bitmap"
    if disk.path is not None and qcow2_version(disk.path) == 2:
        return "a qcow2 image of version 2 has no dirty bitmap (see 'qemu-img amend -o compat=1.1')"
    return None


def describe(path: Path, image_format: str, scope: CancelScope | None = None) -> list[dict[str, Any]]:
    """What ``qemu-img info`` says of the image and of those behind it, the image itself first.

    It waits for no lock, so of an image in use it tells what is stored: bitmaps that QEMU holds are
    marked ``in-use``. Raises :class:`HypervisorError` if the image cannot be read.
    """
    options = ["--force-share", "--output=json", "--backing-chain", "-f", image_format]
    try:
        words = ["qemu-img", "info", *options, "--", str(path.absolute())]
        done = programs.run(words, _INFO_SECONDS, scope)
    except FileNotFoundError as error:
        raise HypervisorError("qemu-img is not installed", advice=INSTALL) from error
    except subprocess.TimeoutExpired as error:
        raise HypervisorError(
            f"qemu-img cannot read {path}: no answer in {_INFO_SECONDS:.0f} s",
            advice="See whether the storage of the image answers.",
        ) from error
    if done.returncode:
        said = " ".join(done.stderr.decode(errors="replace").split()).removeprefix("qemu-img: ")
        raise HypervisorError(
            f"qemu-img cannot read {path}: {said}",
            advice=f"See 'qemu-img check {path}', and who may read it.",
        )
    return list(json.loads(done.stdout))


def files_of(path: Path, image_format: str, scope: CancelScope | None = None) -> tuple[Path, ...]:
    """The files and devices of this host that the image at ``path`` is made of, itself the first.

    These are the images behind it, and those files beside each that hold its data: a qcow2 image may have
    one, a VMDK image several. What is elsewhere (``nbd://``, ``json:``) is left out. Raises HypervisorError.
    """
    found: dict[Path, None] = {path: None}
    for image in describe(path, image_format, scope):
        home = Path(image["filename"])
        data = image.get("format-specific", {}).get("data", {})
        beside = [data.get("data-file"), *(extent["filename"] for extent in data.get("extents", []))]
        found |= dict.fromkeys((home, *(home.parent / name for name in beside if name)))
    return tuple(file for file in found if file.exists())


def with_stored_chain(disk: Disk, scope: CancelScope | None = None) -> Disk:
    """The disk of a domain that is shut off, with the images that its own one says are behind it.

    Of a disk that cannot be incremental nothing is looked at. Raises :class:`HypervisorError`.
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
    found = facts.get("format-specific", {}).get("data", {}).get("bitmaps", [])
    return {bitmap["name"]: frozenset(bitmap["flags"]) for bitmap in found}
