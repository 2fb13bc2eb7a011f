"""What the tests of ``hypervisor`` share: a machine with a checkpointed backup or two."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import nbd
import pytest

from puller.hypervisor.connection import Host
from puller.hypervisor.domain.checkpoint import checkpoint_name, list_checkpoints
from puller.hypervisor.domain.domain import Domain
from puller.hypervisor.job.frozen import DiskExport
from puller.hypervisor.job.job import PullJob, socket_path
from puller.hypervisor.job.listener import UnixListener
from puller.hypervisor.job.pushjob import PushJob
from tests.lab.machine import Machine

REPOSITORY = "0123456789abcdef" * 2


def checkpoint(number: int) -> str:
    """The name of the ``number``-th checkpoint of a test."""
    return checkpoint_name(REPOSITORY, f"20261123T05000{number}Z-{number:08x}")


class Bench:
    """Takes backups of one machine, and tells what libvirt and the folders hold of them."""

    def __init__(self, host: Host, machine: Machine, scratch: Path) -> None:
        self.machine = machine
        self.domain: Domain = host.domain(machine.name)
        self.scratch = scratch

    def job(self, number: int, bases: Mapping[str, int | None]) -> PullJob:
        """A pull job that makes checkpoint ``number``; bases are numbers of checkpoints."""
        names = {target: None if base is None else checkpoint(base) for target, base in bases.items()}
        name = checkpoint(number)
        return PullJob(self.domain, names, name, self.scratch, UnixListener(socket_path(self.domain, name)))

    def push(self, number: int, bases: Mapping[str, int | None], room: int = 0) -> PushJob:
        """A push job that makes checkpoint ``number`` and sets ``room`` bytes aside for each disk."""
        names = {target: None if base is None else checkpoint(base) for target, base in bases.items()}
        return PushJob(
            self.domain, names, checkpoint(number), self.scratch, dict.fromkeys(bases, room) if room else {}
        )

    def take(self, number: int, bases: Mapping[str, int | None]) -> dict[str, list[tuple[int, int]] | None]:
        """Begin and end a job: the dirty extents of each disk, None for one that is to be read in full."""
        with self.job(number, bases) as job:
            return {export.target: dirty(export) for export in job.exports}

    def checkpoints(self) -> list[str]:
        return [item.name for item in list_checkpoints(self.domain)]

    def leftovers(self) -> list[Path]:
        """Scratch files, images of pushes and sockets that exist now."""
        sockets = self.domain.state_directory.glob(f"domain-*-{self.machine.name}/puller-*")
        return [*self.scratch.iterdir(), *sockets]


BenchFactory = Callable[[Machine], Bench]


@pytest.fixture
def host(libvirt_uri: str) -> Iterator[Host]:
    with Host.connect(libvirt_uri) as connected:
        yield connected


@pytest.fixture
def bench(host: Host, tmp_path: Path) -> BenchFactory:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    return lambda machine: Bench(host, machine, scratch)


def dirty(export: DiskExport) -> list[tuple[int, int]] | None:
    """The dirty extents of an export as (offset, length), neighbours merged; None if it shows no bitmap."""
    if export.changed is None:
        return None
    handle = nbd.NBD()
    handle.add_meta_context(export.changed)
    handle.connect_uri(export.uri)
    found: list[int] = []
    handle.block_status(handle.get_size(), 0, lambda name, offset, entries, error: found.extend(entries))
    handle.shutdown()
    return merged(found)


def merged(entries: list[int]) -> list[tuple[int, int]]:
    """NBD's list of lengths and flags, as extents whose flag is 1."""
    extents: list[tuple[int, int]] = []
    offset = 0
    for length, flag in zip(entries[::2], entries[1::2], strict=True):
        if flag & 1 and extents and sum(extents[-1]) == offset:
            extents[-1] = (extents[-1][0], extents[-1][1] + length)
        elif flag & 1:
            extents.append((offset, length))
        offset += length
    return extents
