"""Facts about an image: which file it is, and which run of QEMU has it open."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from puller.cancelling import CancelScope
from puller.errors import HypervisorError
from puller.host.access import HostAccess
from puller.hypervisor.domain.disks.disk import DataFileFacts, Disk, ImageFacts
from puller.hypervisor.domain.disks.image import with_image_facts
from puller.hypervisor.domain.domain import Domain

_SECONDS = 10.0
"""Seconds for ``stat`` on storage that hangs; the backup itself will notice that."""


class Placed(Protocol):
    """A domain on a host; waits for it belong to ``scope``."""

    @property
    def host(self) -> HostAccess:
        """The host where it runs."""
        ...

    @property
    def scope(self) -> CancelScope:
        """Its scope."""
        ...


def with_facts(domain: Domain, disks: Sequence[Disk]) -> tuple[Disk, ...]:
    """Return the disks with the facts of their images. Raises HypervisorError."""
    return with_file_facts(domain, [with_image_facts(disk, domain.scope, domain.host) for disk in disks])


def with_file_facts(domain: Domain, disks: Sequence[Disk]) -> tuple[Disk, ...]:
    """Return the disks with the facts of their images that are not in these. Raises HypervisorError."""
    qemu = _run_of(domain)
    return tuple(replace(disk, facts=replace(disk_facts(disk, domain), qemu=qemu)) for disk in disks)


def disk_facts(disk: Disk, domain: Placed) -> ImageFacts:
    """Return the facts about the disk's image, and its data file if it has one, on the host of ``domain``."""
    image = file_facts(disk.path, domain)
    if disk.data_file is None:
        return replace(image, modified="")
    data = file_facts(disk.data_file, domain)
    return replace(
        image,
        data=DataFileFacts(str(disk.data_file), data.inode, data.born, data.size, data.modified),
    )


def file_facts(path: Path | None, domain: Placed) -> ImageFacts:
    """Return the facts about the file at ``path`` alone, on the host of ``domain``."""
    found = [] if path is None else _stat(path, "%i %.9W %s %.9Y", domain)
    if len(found) != 4:
        return ImageFacts()
    inode, born, size, modified = found
    return ImageFacts(int(inode), born, int(size), modified=modified)


def _run_of(domain: Domain) -> str:
    """libvirt's id of this run, and the birth time of the run's directory: ids restart with the daemon."""
    number = domain.start_id()
    if number is None:
        return ""
    try:
        return " ".join([number, *_stat(domain.runtime_directory(), "%.9W", domain)])
    except HypervisorError:
        return number


def _stat(path: Path, what: str, domain: Placed) -> list[str]:
    """Return words of coreutils' ``stat``, which shows birth times unlike Python's. None if it fails."""
    command = ["stat", "--dereference", f"--printf={what}", "--", str(path)]
    try:
        done = domain.host.run(command, _SECONDS, domain.scope)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.decode(errors="replace").split() if done.returncode == 0 else []
