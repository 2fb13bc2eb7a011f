"""Whether the image that QEMU has pulled is whole in its file, and mending one that is not.

At the end of a pull, QEMU removes the server's name from the image's header at once. The tables that say what
was pulled stay in memory until something flushes them. If QEMU ends before that, the image has nothing
behind it and lacks data, which reads as zeros::

    header   names the server ──► names nothing ────────────────────────────────► names nothing
    tables   in memory            in memory: the header alone misleads            flushed: whole
                                    │ QEMU ends
                                    └─► the server's name is put back: it has what the tables lack

Seen with QEMU 7.2.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import msgspec

from puller.errors import HypervisorError, PullIncomplete
from puller.host.qemu import Failure, qemu_img
from puller.hypervisor.connection import Host
from puller.hypervisor.domain.disks.image import image_facts
from puller.hypervisor.domain.domain import Domain
from puller.hypervisor.job.flushing import flush_image
from puller.recovery.booting.defined import name_server
from puller.recovery.booting.record import Booted, BootedDisk
from puller.recovery.targets import outputs
from puller.units import GIB

_PIECE = 16 * GIB
"""Bytes of an image that are looked at together: at most 262,144 ranges."""

_SECONDS = 60.0


class _Range(msgspec.Struct):
    present: bool = False


_RANGES = msgspec.json.Decoder(list[_Range])


def names_behind(disk: BootedDisk) -> str | None:
    """Return what the overlay's header names behind it. Raises HypervisorError."""
    return image_facts(Path(disk.overlay), "qcow2").get("backing-filename")


def require_whole(booted: Booted, disk: BootedDisk, domain: Domain) -> None:
    """Flush the pulled image of the running ``domain``, and make sure that nothing is missing in its file.

    Raises PullIncomplete, HypervisorError, OutputFailed.
    """
    if names_behind(disk) is None:  # otherwise the machine was started from another definition
        _write_back(disk)  # first, because the guest may have to wait for QEMU's own flush
        flush_image(domain, disk.overlay)
        _write_back(disk)
        if _is_whole(disk):
            return
    raise PullIncomplete(
        f"{disk.overlay} lacks data, and the running machine has no server behind it",
        advice=f"Make sure that {booted.storage} has room, then run 'puller boot --resume {booted.name}' "
        "again. If that does not help, the machine was started without the server, and its guest has "
        "read zeros: discard it, and boot the point again.",
    )


def put_behind(booted: Booted, domain: Domain, host: Host) -> None:
    """Put the server behind each image again that names none and lacks data. The ``domain`` is shut off.

    Raises HypervisorError.
    """
    nameless = [disk for disk in booted.disks if not disk.whole and names_behind(disk) is None]
    doubtful = [disk for disk in nameless if not _is_whole(disk)]
    for disk in doubtful:
        failure = Failure(
            HypervisorError, f"cannot put the server behind {disk.overlay}", "Check the image's storage."
        )
        words = ["rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", server_behind(booted, disk)]
        qemu_img([*words, "--", disk.overlay], _SECONDS, failure)
    if doubtful:
        name_server(booted, doubtful, domain, host)


def server_behind(booted: Booted, disk: BootedDisk) -> str:
    """Return the name by which an image's header leads to the disk's export."""
    server = {"type": "unix", "path": booted.socket}
    behind = {"driver": "raw", "file": {"driver": "nbd", "server": server, "export": disk.disk}}
    return f"json:{json.dumps(behind)}"


def _write_back(disk: BootedDisk) -> None:
    with outputs.translated(disk.overlay):
        descriptor = os.open(disk.overlay, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _is_whole(disk: BootedDisk) -> bool:
    """A pull puts every cluster into the image, those that are zeros as such; and none goes out again."""
    return all(_is_present(disk, start) for start in range(0, disk.size, _PIECE))


def _is_present(disk: BootedDisk, start: int) -> bool:
    failure = Failure(HypervisorError, f"cannot read {disk.overlay}", "Check the image's storage.")
    piece = [f"--start-offset={start}", f"--max-length={min(_PIECE, disk.size - start)}"]
    words = ["map", "--force-share", "--output=json", "-f", "qcow2", *piece, "--", disk.overlay]
    return all(found.present for found in _RANGES.decode(qemu_img(words, _SECONDS, failure)))
