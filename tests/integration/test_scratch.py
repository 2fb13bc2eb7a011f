"""A guest that writes more than the scratch holds sees no error: the backup is ended before."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import puller
from puller.errors import HypervisorError, ScratchFull
from puller.hypervisor.guest import guestagent
from puller.units import MIB
from tests.integration.conftest import Truth, checkpoints, leftovers, restored
from tests.lab.fixtures import MachineFactory
from tests.lab.machine import DiskSpec, Machine
from tests.lab.qemu import BareMachine

SIZE = 400 * MIB
ROOM = 272 * MIB
"""Of the scratch's file system: enough for the check before the job, which asks for 256 MiB."""


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "room"
    folder.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(folder)]
    if subprocess.run(mounting, check=False, capture_output=True).returncode:
        pytest.skip("cannot mount a file system here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


class Writer:
    """Rewrites the disk from its end to its begin, once and again; a context.

    It pauses after 4 MiB: at full speed all of the room is gone in 0.2 s, the time of two looks.

    A write that fails ends it with MachineError, which leaves the context.
    """

    def __init__(self, machine: Machine | BareMachine) -> None:
        self._machine = machine
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._write)
        self._error: Exception | None = None
        self.rounds = 0
        self.begun = threading.Event()

    def _write(self) -> None:
        try:
            while not self._over.is_set():
                for offset in reversed(range(0, SIZE, 4 * MIB)):
                    self._machine.write("vda", self.rounds % 255 + 1, offset, 4 * MIB)
                    self.begun.set()
                    self._over.wait(0.03)
                self.rounds += 1
        except Exception as error:  # noqa: BLE001 - raised in the test's own thread
            self._error = error

    def start(self) -> None:
        self._thread.start()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *unused: object) -> None:
        self._over.set()
        self._thread.join()
        if self._error is not None:
            raise self._error


def test_the_backup_ends_before_the_scratch_is_full(
    machine_factory: MachineFactory, libvirt_uri: str, room: Path, tmp_path: Path, truth: Truth
) -> None:
    machine = machine_factory(DiskSpec("vda", SIZE))
    machine.write("vda", 1, 0, SIZE)
    repository = puller.create_repository(str(tmp_path / "repository"), password=None)
    first = puller.backup(repository, machine.name, connect=libvirt_uri)
    machine.write("vda", 2, 0, SIZE)
    with Writer(machine) as writer:
        with pytest.raises(ScratchFull) as caught:
            puller.backup(
                repository,
                machine.name,
                connect=libvirt_uri,
                scratch_dir=str(room),
                pace=2 * MIB,
                on_frozen=lambda exports: writer.start(),
            )
        with pytest.raises(Exception, match="backup"):
            machine.handle.backupGetXMLDesc()
    assert str(caught.value).startswith(f"scratch directory {room} has only ")
    assert str(caught.value).endswith("the backup was ended before guest writes could fail")
    assert (caught.value.exit_code, "--scratch-dir" in caught.value.advice) == (15, True)
    assert not leftovers(room)
    assert checkpoints(machine) == {first.checkpoint}
    point = puller.backup(repository, machine.name, connect=libvirt_uri, on_frozen=truth)
    assert point.kind == "incremental"
    assert truth.equals(restored(repository, point, tmp_path), "vda", 1)


def test_an_agent_that_hangs_keeps_no_watch_from_ending_the_job(
    machine_factory: MachineFactory,
    libvirt_uri: str,
    room: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is asked to thaw while the job is open, and takes until its time limit."""
    machine = machine_factory(DiskSpec("vda", SIZE))
    machine.write("vda", 1, 0, SIZE)
    machine.resume()
    repository = puller.create_repository(str(tmp_path / "repository"), password=None)
    over = threading.Event()

    def freeze(domain: object, mountpoints: object) -> int:
        raise HypervisorError("Guest agent not available for now")

    def thaw(domain: object) -> int:
        writer.start()
        over.wait(60)
        raise HypervisorError("Guest agent not available for now")

    for name, answer in {
        "has_channel": lambda domain: True,
        "is_connected": lambda domain: True,
        "set_time_limit": lambda domain, seconds: None,
        "freeze": freeze,
        "thaw": thaw,
    }.items():
        monkeypatch.setattr(guestagent, name, answer)
    with Writer(machine) as writer, pytest.raises(ScratchFull):
        puller.backup(repository, machine.name, connect=libvirt_uri, scratch_dir=str(room))
    over.set()
    with pytest.raises(Exception, match="backup"):
        machine.handle.backupGetXMLDesc()
    assert not leftovers(room)
    assert checkpoints(machine) == set()


def test_the_point_says_how_much_scratch_was_used(
    machine_factory: MachineFactory, libvirt_uri: str, tmp_path: Path
) -> None:
    machine = machine_factory(DiskSpec("vda", 8 * MIB))
    machine.write("vda", 1, 0, 8 * MIB)
    repository = puller.create_repository(str(tmp_path / "repository"), password=None)

    def overwrite(exports: object) -> None:
        machine.write("vda", 2, 0, 3 * MIB)

    point = puller.backup(repository, machine.name, connect=libvirt_uri, on_frozen=overwrite)
    assert point.scratch_peak is not None
    assert 3 * MIB <= point.scratch_peak < 4 * MIB
