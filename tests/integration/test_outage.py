"""A store that goes away in the midst of a run: waited for, and given up after a while without harm."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread

import pytest

import puller
from puller import cancelling
from puller.errors import StoreFull, StoreUnavailable
from puller.events import Event, Notice, Step
from puller.repository.format.packname import PackKind
from puller.repository.records.condemned import ALL, Condemned, CondemnedSlots
from puller.store.base import ObjectInfo
from puller.units import MIB
from tests.integration.conftest import checkpoints, leftovers, restored
from tests.lab.fixtures import MachineFactory
from tests.lab.machine import DiskSpec, Machine
from tests.lab.seaweed import Seaweed

SIZE = 48 * MIB


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    """One of this file's own, to be stopped."""
    with Seaweed(tmp_path_factory.mktemp("outage")) as seaweed:
        seaweed.make_bucket("backups")
        yield seaweed


class Scene:
    """A machine with a point on the server, and random content that has changed since."""

    def __init__(self, server: Seaweed, machine: Machine, uri: str, folder: Path) -> None:
        self.server = server
        self.machine = machine
        self._uri = uri
        self._folder = folder
        self.repository = puller.create_repository(f"s3://backups/{machine.name}", password=None)
        self.notices: list[str] = []
        self.hear: Callable[[str], None] = lambda text: None
        machine.write("vda", 1, 0, MIB)
        self.back_up()
        self.content = folder / "content"
        self.content.write_bytes(os.urandom(SIZE))
        machine.copy_in("vda", self.content, 0, SIZE)

    def back_up(
        self, at: str = "", do: Callable[[], None] = lambda: None, mode: puller.Mode = "pull"
    ) -> puller.Point:
        """One run; ``do`` is done as it comes to the step ``at``."""

        def observe(event: Event) -> None:
            if isinstance(event, Notice):
                self.notices.append(event.text)
                self.hear(event.text)
            if isinstance(event, Step) and event.name == at:
                do()

        return puller.backup(
            self.repository, self.machine.name, connect=self._uri, mode=mode, observer=observe
        )

    def assert_exact(self, point: puller.Point) -> None:
        found = restored(self.repository, point, self._folder) / "vda.raw"
        assert found.read_bytes() == self.content.read_bytes()

    def assert_clean(self) -> None:
        with pytest.raises(Exception, match="backup"):
            self.machine.handle.backupGetXMLDesc()
        assert not leftovers(self._folder)
        points = {point.checkpoint for point in puller.list_points(self.repository)}
        assert checkpoints(self.machine) <= points


@pytest.fixture
def scene(
    server: Seaweed,
    machine_factory: MachineFactory,
    libvirt_uri: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Scene:
    server.use(monkeypatch)
    return Scene(server, machine_factory(DiskSpec("vda", SIZE)), libvirt_uri, tmp_path)


def test_a_server_that_stops_in_mid_run_and_comes_back(scene: Scene) -> None:
    back: list[Thread] = []

    def stop() -> None:
        scene.server.stop()
        back.append(Thread(target=scene.server.restart))

    def hear(text: str) -> None:
        if "does not answer" in text:
            back[0].start()

    scene.hear = hear
    point = scene.back_up("read", stop)
    back[0].join()
    assert point.kind == "incremental"
    outage, end = scene.notices
    assert outage.startswith("the store does not answer; trying again for 150 s: cannot ")
    assert end == "the store answers again"
    scene.assert_exact(point)
    scene.assert_clean()


@pytest.mark.parametrize("step", ["read", "commit"])
def test_a_server_that_stops_for_good(scene: Scene, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(cancelling, "WORK", cancelling.RetryPolicy(2.0))
        with pytest.raises(StoreUnavailable, match="Could not connect to the endpoint URL") as caught:
            scene.back_up(step, scene.server.stop)
    assert (caught.value.exit_code, caught.value.retryable) == (14, True)
    scene.server.restart()
    scene.assert_clean()
    point = scene.back_up()
    assert point.kind == "incremental"
    scene.assert_exact(point)
    scene.assert_clean()


class Asked(BaseException):
    """What a signal raises."""


@pytest.mark.parametrize(
    ("mode", "step"), [("pull", "read"), ("pull", "store"), ("pull", "commit"), ("push", "store")]
)
def test_a_signal_while_the_server_hangs(scene: Scene, mode: puller.Mode, step: str) -> None:
    """It takes connections and answers nothing: only the socket's time limit, a minute, would end that."""

    def hang() -> None:
        os.kill(scene.server.pid, signal.SIGSTOP)
        signal.setitimer(signal.ITIMER_REAL, 1)

    def stop(number: int, frame: object) -> None:
        raise Asked

    before = signal.signal(signal.SIGALRM, stop)
    try:
        with pytest.raises(Asked):
            scene.back_up(step, hang, mode)
    finally:
        os.kill(scene.server.pid, signal.SIGCONT)
        signal.signal(signal.SIGALRM, before)
    scene.assert_clean()
    point = scene.back_up()
    assert point.kind == "incremental"
    scene.assert_exact(point)


def test_a_signal_while_threads_read_from_a_server_that_hangs(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for them: the job was open until their sockets' time was up, two minutes."""

    def condemn() -> None:
        for _ in range(3):
            packs = {os.urandom(16): CondemnedSlots(PackKind.DATA, ALL)}
            scene.repository.condemned.put(final=False, grace=1e6, packs=packs)
        listed = Condemned.listed
        monkeypatch.setattr(Condemned, "listed", lambda self: hang(listed(self)))

    def hang(found: list[ObjectInfo]) -> list[ObjectInfo]:
        os.kill(scene.server.pid, signal.SIGSTOP)
        signal.setitimer(signal.ITIMER_REAL, 1)
        return found

    def stop(number: int, frame: object) -> None:
        raise Asked

    before = signal.signal(signal.SIGALRM, stop)
    began = time.monotonic()
    try:
        with pytest.raises(Asked):
            scene.back_up("commit", condemn)
        assert time.monotonic() - began < 40
    finally:
        os.kill(scene.server.pid, signal.SIGCONT)
        signal.signal(signal.SIGALRM, before)
    scene.assert_clean()


def test_a_repository_whose_disk_is_full(
    machine_factory: MachineFactory, libvirt_uri: str, tmp_path: Path, small_file_system: Path
) -> None:
    machine = machine_factory(DiskSpec("vda", SIZE))
    repository = puller.create_repository(str(small_file_system / "repository"), password=None)
    first = puller.backup(repository, machine.name, connect=libvirt_uri)
    content = tmp_path / "content"
    content.write_bytes(os.urandom(SIZE))
    machine.copy_in("vda", content, 0, SIZE)
    with pytest.raises(StoreFull, match=r"cannot store .* in .*: No space left on device") as caught:
        puller.backup(repository, machine.name, connect=libvirt_uri)
    assert caught.value.exit_code == 14
    assert not leftovers(tmp_path)
    assert checkpoints(machine) == {first.checkpoint}
    subprocess.run(["mount", "-o", "remount,size=128M", str(small_file_system)], check=True)
    point = puller.backup(repository, machine.name, connect=libvirt_uri)
    assert point.kind == "incremental"
    assert (restored(repository, point, tmp_path) / "vda.raw").read_bytes() == content.read_bytes()
