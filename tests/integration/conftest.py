"""What the integration tests share: a machine, a repository in each kind of store, and the truth."""

from __future__ import annotations

import filecmp
import json
import os
import random
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import puller
from puller.events import Event, Notice
from puller.hypervisor.job.frozen import DiskExport
from puller.units import MIB
from tests.lab.fixtures import MachineFactory
from tests.lab.machine import DiskSpec, Machine, reference
from tests.lab.seaweed import Seaweed

_PUSHED = (
    "three_generations_of_two_disks[folder-push-plain]",
    "a_point_stands_without_its_ancestors[folder-push]",
    "nothing_dirty_makes_a_valid_point_that_costs_next_to_nothing[folder-push]",
    "a_hundred_dirty_chunks_on_a_device_cost_a_hundred_chunks[push]",
    "a_run_that_cannot_clean_up_is_cleaned_up_by_the_next[push]",
    "a_disk_that_grew_stays_incremental[push]",
    "disks_that_change_places_are_compared[push]",
    "clones_that_change_places_are_compared[push]",
    "a_disk_that_was_cut_and_grew_again[push-10485760-20971520]",
    "a_signal_while_the_server_hangs[push-store]",
    "an_image_from_before_a_point_of_the_domain_shut_off[push]",
    "a_copy_of_another_disk_over_a_blank_one[blank-push]",
    "a_copy_of_another_disk_over_a_blank_one[rewritten-push]",
    "compare_reads_all_and_stores_what_no_look_finds[push]",
    "a_guest_that_shuts_down_by_itself[push]",
)
"""Tests of both modes that run in push mode by default; the others show little more than in pull mode."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is in both modes and not in ``_PUSHED``, unless ``PULLER_TEST_LONG`` is set."""
    if os.environ.get("PULLER_TEST_LONG"):
        return
    chosen = [item for item in items if not _is_pushed(item) or item.name.removeprefix("test_") in _PUSHED]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen


def _is_pushed(item: pytest.Item) -> bool:
    if not isinstance(item, pytest.Function) or item.path.parent != Path(__file__).parent:
        return False
    call = getattr(item, "callspec", None)
    return call is not None and call.params.get("mode") == "push"


@pytest.fixture(params=["folder", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where a repository can be made: a folder, or a bucket on a real S3 server."""
    if request.param == "folder":
        return str(tmp_path / "repository")
    seaweed: Seaweed = request.getfixturevalue("seaweed")
    for name, value in seaweed.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
    bucket = f"b{abs(hash(request.node.nodeid)):x}"[:20]
    seaweed.make_bucket(bucket)
    return f"s3://{bucket}/kvm"


@pytest.fixture(params=["pull", "push"])
def mode(request: pytest.FixtureRequest) -> str:
    """Who copies the frozen disks."""
    return str(request.param)


class Truth:
    """Reads the frozen disks independently of puller, and compares restores with that."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._generation = 0
        self.dirty: dict[str, int] = {}

    def __call__(self, exports: Sequence[DiskExport]) -> None:
        """The hook of ``puller.backup``: copy every export and ask QEMU what is dirty."""
        self._generation += 1
        for export in exports:
            reference(export.uri, self.image(export.target, self._generation))
            self._count(export)

    def of(self, machine: Machine) -> Callable[[Sequence[DiskExport]], None]:
        """The hook where the exports are images that QEMU pushed: the disks of the still machine are read."""

        def read(exports: Sequence[DiskExport]) -> None:
            self._generation += 1
            with machine.exported(self._folder / "truth.sock") as uris:
                for export in exports:
                    reference(uris[export.target], self.image(export.target, self._generation))
                    self._count(export)

        return read

    def _count(self, export: DiskExport) -> None:
        if export.changed is not None:
            self.dirty[export.target] = dirty_bytes(export.uri, export.changed)

    def image(self, target: str, generation: int) -> Path:
        return self._folder / f"truth-{target}-{generation}"

    def equals(self, folder: Path, target: str, generation: int) -> bool:
        return filecmp.cmp(folder / f"{target}.raw", self.image(target, generation), shallow=False)


def dirty_bytes(uri: str, context: str) -> int:
    """What ``nbdinfo`` says is dirty."""
    command = ["nbdinfo", "--json", f"--map={context}", uri]
    extents = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return sum(extent["length"] for extent in extents if extent["type"] & 1)


@pytest.fixture
def truth(tmp_path: Path) -> Iterator[Truth]:
    yield Truth(tmp_path)


class Backup:
    """``backup(repository, machine)`` takes a point in one mode, and the truth of it."""

    def __init__(self, uri: str, mode: str, truth: Truth) -> None:
        self._uri = uri
        self.mode = mode
        self._truth = truth

    def __call__(self, repository: puller.Repository, machine: Machine, **options: Any) -> puller.Point:
        mode = options.setdefault("mode", self.mode)
        hook: Callable[[Sequence[DiskExport]], None] = self._truth
        if mode == "push":
            machine.flush()
            hook = self._truth.of(machine)
        return puller.backup(repository, machine.name, connect=self._uri, on_frozen=hook, **options)


@pytest.fixture
def backup(libvirt_uri: str, mode: str, truth: Truth) -> Backup:
    return Backup(libvirt_uri, mode, truth)


def leftovers(folder: Path) -> list[Path]:
    """Scratch files, and images of pushes, in ``folder``."""
    return [*folder.glob("*.scratch"), *folder.glob("*.staging")]


def restored(repository: puller.Repository, point: puller.Point, folder: Path) -> Path:
    """Restore all of ``point`` into a new folder."""
    output = folder / point.point
    puller.restore(repository, point.point, output=str(output), format="raw")
    return output


def checkpoints(machine: Machine) -> set[str]:
    """Names of all checkpoints that libvirt knows of the machine."""
    return {checkpoint.getName() for checkpoint in machine.handle.listAllCheckpoints()}


SIZE = 24 * MIB
"""Of the disk of a scene."""


class Scene:
    """A machine whose first point holds 16 MiB of noise on vda, which nothing can make smaller."""

    def __init__(
        self, machine: Machine, uri: str, folder: Path, truth: Truth, password: str | None = None
    ) -> None:
        self.machine = machine
        self.uri = uri
        self.folder = folder
        self.truth: Callable[[Sequence[DiskExport]], None] = truth
        self._images = truth
        self.taken = 0
        self.told: list[str] = []
        self.repository = puller.create_repository(str(folder / "repository"), password=password)

    def fill(self, target: str) -> None:
        noise = self.folder / "noise"
        noise.write_bytes(random.Random(target).randbytes(16 * MIB))
        self.machine.copy_in(target, noise, 0, 16 * MIB)

    def backup(self, **options: Any) -> puller.Point:
        self.told = []
        self.taken += 1
        return puller.backup(
            self.repository,
            self.machine.name,
            connect=self.uri,
            on_frozen=self.truth,
            observer=self._observe,
            **options,
        )

    def _observe(self, event: Event) -> None:
        if isinstance(event, Notice):
            self.told.append(event.text)

    def assert_exact(self, point: puller.Point) -> None:
        folder = restored(self.repository, point, self.folder)
        for disk in point.disks:
            assert self._images.equals(folder, disk.disk, self.taken), disk.disk

    def redefine(self, edit: Callable[[ET.Element], None]) -> None:
        """Change the definition of the machine, which is off."""
        root = ET.fromstring(self.machine.handle.XMLDesc())
        edit(root)
        self.machine.define(ET.tostring(root, encoding="unicode"))


def io(image: Path, driver: str, *commands: str) -> None:
    words = [word for command in commands for word in ("-c", command)]
    subprocess.run(["qemu-io", "-f", driver, *words, str(image)], check=True, capture_output=True)


@contextmanager
def loop_device(image: Path) -> Iterator[str]:
    """A block device over the file; skips the test where there are none."""
    made = subprocess.run(["losetup", "--find", "--show", image], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no loop devices here: {made.stderr.strip()}")
    device = made.stdout.strip()
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


def bitmap(image: Path, *words: str) -> None:
    subprocess.run(["qemu-img", "bitmap", *words[:1], str(image), *words[1:]], check=True)


@pytest.fixture
def scene(machine_factory: MachineFactory, libvirt_uri: str, tmp_path: Path, truth: Truth) -> Scene:
    scene = Scene(machine_factory(DiskSpec("vda", SIZE)), libvirt_uri, tmp_path, truth)
    scene.fill("vda")
    assert scene.backup().kind == "full"
    return scene
