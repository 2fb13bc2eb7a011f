"""A run over a QEMU without libvirt that fails at any QMP command leaves nothing, and the next one is exact.

tests/ways has a fault for each step of the transaction.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import puller
from puller.errors import (
    DomainNotRunning,
    HypervisorError,
    JobRunning,
    Locked,
)
from puller.events import Event, Notice
from puller.hypervisor.domain.checkpoint import PREFIX_LENGTH
from puller.hypervisor.locking import lock
from puller.qmp.monitor import Monitor
from puller.qmp.names import socket_name
from puller.units import MIB
from tests.integration.conftest import Truth, restored
from tests.integration.test_generations import ODD
from tests.lab.machine import DiskSpec
from tests.lab.qemu import BareMachine, free_port
from tests.qmp.conftest import BareFactory


class Scene:
    """A machine of two disks with one committed point and changes since."""

    def __init__(self, machine: BareMachine, folder: Path, truth: Truth) -> None:
        self.machine = machine
        self.folder = folder
        self.truth = truth
        self.told: list[str] = []
        self.url = str(folder / "repository")
        self.repository = puller.create_repository(self.url, password=None)
        machine.write("vda", 1, 0, 6 * MIB)
        machine.write("vdb", 2, 0, ODD)
        self.taken = 0
        self.first = self.backup()
        self.change(3)

    def change(self, pattern: int) -> None:
        self.machine.write("vda", pattern, MIB, MIB)
        self.machine.discard("vda", 3 * MIB, MIB)
        self.machine.write_zeroes("vdb", 2 * MIB, 512)

    def backup(self, **options: Any) -> puller.Point:
        def read(exports: Any) -> None:
            self.truth(exports)
            self.taken += 1

        self.told = []
        options = {"on_frozen": read, "observer": self._hear, **options}
        return puller.backup(self.repository, self.machine.name, connect=self.machine.uri, **options)

    def _hear(self, event: Event) -> None:
        if isinstance(event, Notice):
            self.told.append(event.text)

    def checkpoints(self) -> set[str]:
        return set().union(*self.machine.bitmaps().values())

    def assert_clean(self) -> None:
        assert self.machine.remains() == []
        points = {point.checkpoint for point in puller.list_points(self.repository)}
        assert self.checkpoints() <= points

    def assert_next_is_exact(self, kind: str = "incremental") -> None:
        self.change(5)
        point = self.backup()
        assert {disk.kind for disk in point.disks} == {kind}, [disk.reason for disk in point.disks]
        assert self.checkpoints() == {point.checkpoint}
        assert self.machine.remains() == []
        folder = restored(self.repository, point, self.folder)
        for target in ("vda", "vdb"):
            assert self.truth.equals(folder, target, self.taken)


@pytest.fixture
def scene(bare_factory: BareFactory, tmp_path: Path, truth: Truth) -> Scene:
    return Scene(bare_factory(DiskSpec("vda", 20 * MIB), DiskSpec("vdb", ODD)), tmp_path, truth)


def fail_at(
    patch: pytest.MonkeyPatch, command: str, error: BaseException, *, times: int = 1, done: bool = False
) -> None:
    """Let a QMP command fail at its ``times``-th use, before it is carried out or when it is ``done``."""
    real, left = Monitor.ask, [times]

    def ask(self: Monitor, asked: str, arguments: Mapping[str, object] | None = None, doing: str = "") -> Any:
        left[0] -= asked == command
        if asked == command and left[0] == 0 and not done:
            raise error
        answer = real(self, asked, arguments, doing)
        if asked == command and left[0] == 0:
            raise error
        return answer

    patch.setattr(Monitor, "ask", ask)


BEGIN = [
    "blockdev-add",
    "blockdev-add:2",
    "transaction",
    "nbd-server-start",
    "block-export-add",
    "block-export-add:2",
]


@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("command", BEGIN)
def test_a_begin_that_fails_at_a_command(
    scene: Scene, command: str, done: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, _, times = command.partition(":")
    with monkeypatch.context() as patch:
        fail_at(patch, name, HypervisorError("no answer"), times=int(times or 1), done=done)
        with pytest.raises(HypervisorError, match="no answer"):
            scene.backup()
    scene.assert_clean()
    assert scene.checkpoints() == {scene.first.checkpoint}
    scene.assert_next_is_exact()


@pytest.mark.parametrize("command", BEGIN)
def test_a_signal_during_a_command_of_the_begin(
    scene: Scene, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, _, times = command.partition(":")
    with monkeypatch.context() as patch:
        fail_at(patch, name, KeyboardInterrupt(), times=int(times or 1), done=True)
        with pytest.raises(KeyboardInterrupt):
            scene.backup()
    scene.assert_clean()
    assert scene.checkpoints() == {scene.first.checkpoint}


END = ["block-export-del", "block-export-del:2", "nbd-server-stop", "block-job-cancel", "blockdev-del"]


@pytest.mark.parametrize("command", [*END, "block-dirty-bitmap-remove"])
def test_an_end_that_fails_at_a_command(scene: Scene, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The point is stored; puller tries again to end the job, and succeeds."""
    name, _, times = command.partition(":")
    with monkeypatch.context() as patch:
        fail_at(patch, name, HypervisorError("no answer"), times=int(times or 1))
        point = scene.backup()
    assert [found.point for found in puller.list_points(scene.repository)][-1] == point.point
    scene.assert_clean()
    scene.assert_next_is_exact()


@pytest.mark.parametrize("when", [*BEGIN, "frozen", "committed", *END, "block-dirty-bitmap-remove"])
def test_a_killed_run_is_cleaned_up_by_the_next(scene: Scene, when: str) -> None:
    command = [sys.executable, "-m", "tests.qmp.killed_run", scene.machine.uri, scene.machine.name]
    died = subprocess.run([*command, scene.url, when], capture_output=True, check=False, text=True)
    assert died.returncode == -signal.SIGKILL, died.stderr
    if when in ("frozen", "committed"):
        assert scene.machine.remains() != []
    scene.machine.write("vda", 9, 5 * MIB, MIB)  # the guest goes on meanwhile
    scene.assert_next_is_exact()
    points = {point.checkpoint for point in puller.list_points(scene.repository)}
    assert scene.checkpoints() < points


@pytest.mark.parametrize("when", ["nbd-server-start", "frozen"])
def test_a_killed_run_over_tcp_is_cleaned_up_by_the_next(
    bare_factory: BareFactory, tmp_path: Path, truth: Truth, when: str
) -> None:
    """The socket of the exports is in the scratch directory then."""
    machine = bare_factory(DiskSpec("vda", 20 * MIB), DiskSpec("vdb", ODD), port=free_port())
    scene = Scene(machine, tmp_path, truth)
    command = [sys.executable, "-m", "tests.qmp.killed_run", machine.uri, machine.name, scene.url, when]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert machine.remains() != []
    scene.assert_next_is_exact()


def test_files_of_a_killed_run_in_a_directory_that_later_runs_do_not_use(
    scene: Scene, tmp_path: Path
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    command = [sys.executable, "-m", "tests.qmp.killed_run", scene.machine.uri, scene.machine.name]
    died = subprocess.run([*command, scene.url, "frozen", str(scratch)], check=False)
    assert died.returncode == -signal.SIGKILL
    assert len(list(scratch.glob("*.scratch"))) == 2
    scene.assert_next_is_exact()
    assert list(scratch.glob("*.scratch")) == []


def test_a_living_run_of_another_container_is_left_alone(
    bare_factory: BareFactory, tmp_path: Path, truth: Truth, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has its locks elsewhere, and its scratch in a directory that this run does not use."""
    second = tmp_path / "second.qmp"
    options = ("-qmp", f"unix:{second},server=on,wait=off")
    machine = bare_factory(DiskSpec("vda", 20 * MIB), DiskSpec("vdb", ODD), options=options)
    scene = Scene(machine, tmp_path, truth)
    scratch, locks = tmp_path / "scratch", tmp_path / "locks"
    scratch.mkdir()

    def meanwhile(exports: Any) -> None:
        scene.truth(exports)
        scene.taken += 1
        with monkeypatch.context() as patch:
            patch.setattr(lock, "lock_directory", lambda: locks)
            with pytest.raises(Locked, match="of another user, container or host"):
                puller.backup(scene.repository, machine.name, connect=f"qmp://{second}")

    scene.backup(on_frozen=meanwhile, scratch_dir=str(scratch))
    assert machine.remains() == []
    scene.assert_next_is_exact()


def test_the_machine_is_killed_while_it_is_backed_up(scene: Scene) -> None:
    def kill(exports: object) -> None:
        scene.machine.kill()

    with pytest.raises(DomainNotRunning, match="was shut off during the backup"):
        scene.backup(on_frozen=kill)
    assert [path.name for path in scene.folder.glob("puller-*") if path.suffix != ".sock"] == []
    scene.machine.start()
    scene.assert_next_is_exact("rehash")  # QEMU has marked its bitmaps inconsistent
    scene.assert_next_is_exact()


def test_bitmaps_outlive_an_orderly_end_of_the_machine(scene: Scene) -> None:
    scene.machine.stop()
    scene.machine.start()
    scene.assert_next_is_exact()


def test_two_runs_at_once(scene: Scene) -> None:
    def again(exports: object) -> None:
        puller.backup(scene.repository, scene.machine.name, connect=scene.machine.uri)

    with pytest.raises((Locked, HypervisorError), match=r"is being backed up|no greeting"):
        scene.backup(on_frozen=again)
    scene.assert_clean()
    scene.assert_next_is_exact()


def test_the_server_of_another_program_beside_a_socket_of_a_dead_run(scene: Scene) -> None:
    """QEMU has been killed and started since, and the other program has not exported a disk yet."""

    def kill(exports: object) -> None:
        scene.machine.kill()

    with pytest.raises(DomainNotRunning):
        scene.backup(on_frozen=kill)
    prefix = str(scene.first.checkpoint)[:PREFIX_LENGTH]
    dead = socket_path_of(scene, prefix)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(dead))
    scene.machine.start()
    theirs = scene.folder / "theirs.sock"
    scene.machine.monitor("nbd-server-start", addr={"type": "unix", "data": {"path": str(theirs)}})
    with pytest.raises(JobRunning, match="NBD server is in use by another program"):
        scene.backup()
    assert not dead.exists()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(theirs))
    scene.machine.monitor("nbd-server-stop")
    scene.assert_next_is_exact("rehash")


def socket_path_of(scene: Scene, prefix: str) -> Path:
    """Where a dead run with these names has had its server."""
    return scene.folder / socket_name(f"{prefix}20260101T000000Z-00000000", scene.machine.uuid)


def test_what_others_have_set_up_is_left_alone(scene: Scene) -> None:
    machine, theirs = scene.machine, scene.folder / "theirs.sock"
    machine.monitor("block-dirty-bitmap-add", node="n-vda", name="theirs", persistent=True)
    machine.monitor("nbd-server-start", addr={"type": "unix", "data": {"path": str(theirs)}})
    with pytest.raises(JobRunning, match="NBD server is in use by another program"):
        scene.backup()
    machine.monitor("block-export-add", type="nbd", id="their-export", node_name="n-vdb", name="x")
    with pytest.raises(JobRunning, match="exports of another program, such as their-export"):
        scene.backup()
    assert [item["id"] for item in machine.monitor("query-block-exports")] == ["their-export"]
    machine.monitor("nbd-server-stop")
    assert machine.remains() == []
    assert scene.checkpoints() == {scene.first.checkpoint, "theirs"}
    point = scene.backup()
    assert point.kind == "incremental"
    assert scene.checkpoints() == {point.checkpoint, "theirs"}
