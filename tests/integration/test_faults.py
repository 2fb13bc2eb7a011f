"""Runs that meet a fault; tests/ways has one for each step. The next one is incremental and exact."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import puller
from puller.backups.sources import content_probe
from puller.errors import (
    HypervisorError,
    JobRunning,
    NoSuchDisk,
    NoSuchDomain,
    StoreUnavailable,
)
from puller.hypervisor.domain import checkpoint as checkpoint_module
from puller.hypervisor.job.backupjob import BackupJob
from puller.hypervisor.job.job import PullJob
from puller.hypervisor.job.pushjob import PushJob
from puller.nbd.connection import Connection
from puller.repository.format.packname import PackKind
from puller.repository.repository import Repository
from puller.repository.writing.run import Run
from puller.units import MIB
from tests.integration.conftest import Backup, Truth, checkpoints, leftovers, restored
from tests.lab.faults import Planned, at_step, before
from tests.lab.fixtures import MachineFactory
from tests.lab.machine import DiskSpec, Machine


class Scene:
    """A machine with one committed point and changes since."""

    def __init__(self, machine: Machine, take: Backup, folder: Path, truth: Truth) -> None:
        self.machine = machine
        self._take = take
        self.mode = take.mode
        self.job: type[BackupJob] = PullJob if take.mode == "pull" else PushJob
        self.folder = folder
        self.truth = truth
        self.repository = puller.create_repository(str(folder / "repository"), password=None)
        machine.write("vda", 1, 0, 6 * MIB)
        self.first = self.backup()
        machine.write("vda", 2, 1 * MIB, MIB)
        machine.discard("vda", 3 * MIB, MIB)

    def backup(self, **options: Any) -> puller.Point:
        return self._take(self.repository, self.machine, **options)

    @property
    def kind_when_resized(self) -> str:
        """A pushed incremental has nothing of what came to light behind the old end."""
        return "incremental" if self.mode == "pull" else "rehash"

    def assert_clean(self) -> None:
        with pytest.raises(Exception, match="backup"):
            self.machine.handle.backupGetXMLDesc()
        assert not leftovers(self.folder)
        points = {point.checkpoint for point in puller.list_points(self.repository)}
        assert checkpoints(self.machine) <= points
        assert self.first.checkpoint in checkpoints(self.machine) or len(points) > 1

    def assert_next_is_exact(self, generation: int) -> None:
        self.machine.write("vda", 4, 5 * MIB, 2 * MIB)
        point = self.backup()
        assert point.kind == "incremental", point.disks[0].reason
        assert checkpoints(self.machine) == {point.checkpoint}
        assert self.truth.equals(restored(self.repository, point, self.folder), "vda", generation)


@pytest.fixture
def scene(machine_factory: MachineFactory, backup: Backup, tmp_path: Path, truth: Truth) -> Iterator[Scene]:
    yield Scene(machine_factory(DiskSpec("vda", 20 * MIB)), backup, tmp_path, truth)


def test_a_run_that_cannot_clean_up_is_cleaned_up_by_the_next(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after kill -9: job, scratch and checkpoint are all left behind."""
    with monkeypatch.context() as patch:
        before(patch, scene.job, "end")
        before(patch, checkpoint_module, "delete", HypervisorError("gone"))
        with pytest.raises(Planned):
            scene.backup(observer=at_step("read"))
    assert leftovers(scene.folder)
    assert len(checkpoints(scene.machine)) == 2
    scene.assert_next_is_exact(3)
    scene.assert_clean()


def test_a_point_whose_older_checkpoint_was_not_retired(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Planned):
        scene.backup(observer=at_step("retire"))
    assert len(checkpoints(scene.machine)) == 2
    scene.assert_next_is_exact(3)


def test_a_lost_answer_to_the_commit_is_no_failure(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    store = scene.repository.store
    real = store.put_new

    def lose(key: str, body: Any) -> None:
        real(key, body)
        if key.startswith("points/"):
            raise StoreUnavailable("the answer was lost")

    with monkeypatch.context() as patch:
        patch.setattr(store, "put_new", lose)
        point = scene.backup()
    assert scene.truth.equals(restored(scene.repository, point, scene.folder), "vda", 2)
    scene.assert_next_is_exact(3)


def test_foreign_jobs_and_checkpoints_are_left_alone(scene: Scene) -> None:
    handle = scene.machine.handle
    scratch = scene.folder / "theirs"
    xml = f"""<domainbackup mode='pull'><server transport='unix' socket='{scene.folder}/s'/><disks>
      <disk name='vda' backup='yes' type='file'><scratch file='{scratch}'/></disk></disks></domainbackup>"""
    handle.backupBegin(xml, "<domaincheckpoint><name>theirs</name></domaincheckpoint>", 0)
    with pytest.raises(JobRunning):
        scene.backup()
    assert handle.backupGetXMLDesc()
    handle.abortJob()
    while scratch.exists():
        pass
    point = scene.backup()
    assert point.kind == "incremental"
    assert checkpoints(scene.machine) == {"theirs", point.checkpoint}
    assert scene.truth.equals(restored(scene.repository, point, scene.folder), "vda", 2)


def test_alternating_disks_stay_incremental(
    machine_factory: MachineFactory, libvirt_uri: str, tmp_path: Path
) -> None:
    machine = machine_factory(DiskSpec("vda", 4 * MIB), DiskSpec("vdb", 4 * MIB))
    repository = puller.create_repository(str(tmp_path / "r"), password=None)
    taken = []
    for target in ("vda", "vdb", "vda", "vdb"):
        point = puller.backup(repository, machine.name, connect=libvirt_uri, disks=[target])
        taken.append((point.kind, point.disks[0].reason))
    first = ("full", "no earlier point has this disk")
    assert taken == [first, first, ("incremental", ""), ("incremental", "")]
    assert len(checkpoints(machine)) == 2


def test_refusals_touch_nothing(machine_factory: MachineFactory, libvirt_uri: str, tmp_path: Path) -> None:
    machine = machine_factory(DiskSpec("vda", MIB))
    repository: Repository = puller.create_repository(str(tmp_path / "r"), password=None)

    def backup(name: str = machine.name, **options: Any) -> puller.Point:
        return puller.backup(repository, name, connect=libvirt_uri, **options)

    with pytest.raises(NoSuchDisk, match="vdz"):
        backup(disks=["vdz"])
    with pytest.raises(NoSuchDomain, match="nobody"):
        backup("nobody")
    with pytest.raises(NoSuchDisk, match="no disk to back up"):
        backup(exclude=["vda"])
    assert checkpoints(machine) == set()
    assert puller.list_points(repository) == []


def test_a_disk_that_grew_stays_incremental(scene: Scene) -> None:
    scene.machine.handle.blockResize("vda", 40 * MIB + 512 * 3, 1)
    scene.machine.write("vda", 8, 39 * MIB, MIB)
    point = scene.backup()
    assert (point.kind, point.disks[0].size) == (scene.kind_when_resized, 40 * MIB + 512 * 3)
    assert scene.truth.equals(restored(scene.repository, point, scene.folder), "vda", 2)


def _exchange_images(machine: Machine, tmp_path: Path) -> None:
    """Let vda and vdb change places while the machine is off."""
    machine.stop()
    machine.image("vda").rename(tmp_path / "swap")
    machine.image("vdb").rename(machine.image("vda"))
    (tmp_path / "swap").rename(machine.image("vdb"))
    machine.start()


def test_disks_that_change_places_are_compared(
    machine_factory: MachineFactory,
    backup: Backup,
    tmp_path: Path,
    truth: Truth,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Bitmaps of one checkpoint have one name on all disks, so the wrong one would seem to fit."""
    monkeypatch.setattr(content_probe, "_FLUSH", 0.0)
    machine = machine_factory(DiskSpec("vda", 4 * MIB), DiskSpec("vdb", 4 * MIB))
    machine.write("vda", 1, 0, MIB)
    machine.write("vdb", 2, 0, 2 * MIB)
    repository = puller.create_repository(str(tmp_path / "r"), password=None)
    backup(repository, machine)
    _exchange_images(machine, tmp_path)
    point = backup(repository, machine)
    folder = restored(repository, point, tmp_path)
    assert truth.equals(folder, "vda", 2)
    assert truth.equals(folder, "vdb", 2)
    assert point.kind == "rehash"
    assert "its content does not match its dirty bitmap" in point.disks[0].reason


def test_clones_that_change_places_are_compared(
    machine_factory: MachineFactory, backup: Backup, tmp_path: Path, truth: Truth
) -> None:
    """They are alike where the disk ends."""
    machine = machine_factory(DiskSpec("vda", 8 * MIB), DiskSpec("vdb", 8 * MIB))
    for target, pattern in (("vda", 1), ("vdb", 2)):
        machine.write(target, 9, 0, 8 * MIB)
        machine.write(target, pattern, 3 * MIB, MIB)
    repository = puller.create_repository(str(tmp_path / "r"), password=None)
    backup(repository, machine)
    _exchange_images(machine, tmp_path)
    point = backup(repository, machine)
    folder = restored(repository, point, tmp_path)
    assert truth.equals(folder, "vda", 2)
    assert truth.equals(folder, "vdb", 2)
    assert point.kind == "rehash"


@pytest.mark.parametrize(("cut", "grown"), [(10 * MIB, 20 * MIB), (10 * MIB + 512, 30 * MIB)])
def test_a_disk_that_was_cut_and_grew_again(
    scene: Scene, cut: int, grown: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """QEMU keeps no dirty bits of what it cuts, and continues the bitmap with clean ones."""
    monkeypatch.setattr(content_probe, "_FLUSH", 0.0)
    scene.machine.write("vda", 6, 8 * MIB, 12 * MIB)
    scene.backup()
    for size in (cut, grown):
        scene.machine.handle.blockResize("vda", size, 1)
    point = scene.backup()
    assert scene.truth.equals(restored(scene.repository, point, scene.folder), "vda", 3)
    assert point.kind == "rehash"
    resized = scene.mode == "push" and grown != 20 * MIB
    expected = "it was resized" if resized else "its content does not match its dirty bitmap"
    assert expected in point.disks[0].reason


def test_a_disk_that_grows_after_a_point_with_an_odd_end(scene: Scene) -> None:
    scene.machine.write("vda", 6, 8 * MIB, 12 * MIB)
    scene.machine.handle.blockResize("vda", 10 * MIB + 512, 1)
    scene.backup(full=True)
    scene.machine.handle.blockResize("vda", 20 * MIB, 1)
    point = scene.backup()
    assert scene.truth.equals(restored(scene.repository, point, scene.folder), "vda", 3)
    assert point.kind == scene.kind_when_resized


def test_a_cut_disk_stays_incremental(scene: Scene) -> None:
    scene.machine.handle.blockResize("vda", 5 * MIB + 512, 1)
    point = scene.backup()
    assert scene.truth.equals(restored(scene.repository, point, scene.folder), "vda", 2)
    assert point.kind == scene.kind_when_resized


@pytest.mark.parametrize("lost", ["packs", "maps"])
def test_lost_packs_are_stored_again(scene: Scene, lost: str) -> None:
    store = scene.repository.store
    store.delete([info.key for info in store.list(f"{lost}/")])
    again = puller.open_repository(store.url)
    scene.repository = again
    point = scene.backup(full=lost == "packs")
    assert point.kind == ("full" if lost == "packs" else "rehash")
    assert scene.truth.equals(restored(again, point, scene.folder), "vda", 2)


def test_every_nbd_connection_is_closed_before_the_job_ends(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that stays connected while QEMU stops its server can crash QEMU (CVE-2024-7409)."""
    open_now: set[int] = set()
    left: list[int] = []
    connect, close, end = Connection.__init__, Connection.drop, scene.job.end

    def connecting(self: Connection, *args: Any) -> None:
        connect(self, *args)
        open_now.add(id(self))

    def dropping(self: Connection) -> None:
        close(self)
        open_now.discard(id(self))

    def ending(self: BackupJob) -> None:
        left.append(len(open_now))
        end(self)

    monkeypatch.setattr(Connection, "__init__", connecting)
    monkeypatch.setattr(Connection, "drop", dropping)
    monkeypatch.setattr(scene.job, "end", ending)
    scene.backup()
    scene.machine.write("vda", 9, 0, MIB)
    with monkeypatch.context() as patch:
        before(patch, Run, "encode")
        with pytest.raises(Planned):
            scene.backup()
    assert left == [0, 0]


def test_a_rehash_heals_a_damaged_map(scene: Scene) -> None:
    """An unchanged page has the same id; the damaged one must not be referred to once more."""
    store = scene.repository.store
    (disk,) = puller.list_points(scene.repository)[-1].disks
    maps = scene.repository.maps
    pages = maps.root(disk.root.address).pages
    pack = scene.repository.packs.open(PackKind.MAP, maps.table.pack_id(int(pages.packs[0])))
    body = bytearray(store.get(pack.name))
    body[int(pack.footer.offsets[int(pages.slots[0])]) + 3] ^= 1
    store.put(pack.name, bytes(body))
    scene.repository = puller.open_repository(store.url)
    point = scene.backup()
    assert point.kind == "rehash"
    assert point.disks[0].reason.startswith("its last map is damaged: ")
    assert scene.truth.equals(restored(puller.open_repository(store.url), point, scene.folder), "vda", 2)
