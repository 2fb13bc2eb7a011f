"""Every kind of target takes every kind of point over old contents, and is what the point holds."""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import puller
from puller.errors import DamagedData, OutputFailed, OutputRefused, UsageError
from puller.events import Event, Notice
from puller.hypervisor.domain.disks.image import describe
from puller.nbd.image import ImageServer
from puller.recovery.restore import Request, restore
from puller.repository.points import Attachment, DiskRecord, Point, Ref, new_id
from puller.units import CHUNK, KIB, MIB
from tests.integration.conftest import SIZE, Scene, Truth, loop_device
from tests.lab.archive import data_packs
from tests.lab.feed import SMALL, store_disk
from tests.lab.fixtures import MachineFactory
from tests.lab.machine import DiskSpec

UUID = "1f80ae13-49df-4e30-9b5a-d185a32acbbc"

SPARSE = 520 * MIB + 512
"""A disk of which one map page of nine is in use; then a qcow2 file is written through qemu-nbd."""


class Shelf:
    """A repository with one point of qcow2 disks, which were laid out as ``options`` of ``qemu-img`` say."""

    def __init__(self, folder: Path, contents: dict[str, bytes], **options: str) -> None:
        self.folder = folder
        self.contents = contents
        self.told: list[str] = []
        self.repository = puller.create_repository(str(folder / "repository"), password=None)
        now = datetime.now(UTC)
        records = tuple(self._record(target, content) for target, content in contents.items())
        facts = {record.disk: self._facts(record.disk, record.size, options) for record in records}
        attached = json.dumps(facts).encode()
        with self.repository.run(SMALL) as run:
            layout = Attachment("images.json", len(attached), Ref.to(run.attach(attached)))
            run.flush()
        point = Point(new_id(now), "web1", UUID, now, "pull", "full", records, attachments=(layout,))
        self.repository.points.commit(point)

    def _record(self, target: str, content: bytes) -> DiskRecord:
        root = store_disk(self.repository, content)[0]
        return DiskRecord(target, "full", len(content), Ref.to(root), format="qcow2")

    def _facts(self, target: str, size: int, options: dict[str, str]) -> list[dict[str, Any]]:
        image = self.folder / f"original-{target}.qcow2"
        more = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *more, image, str(size)], check=True)
        return list(describe(image, "qcow2"))

    def restore(self, **options: Any) -> puller.Restored:
        self.told = []
        return puller.restore(
            self.repository, "web1@latest", connect="test:///nowhere", observer=self._observe, **options
        )

    def _observe(self, event: Event) -> None:
        if isinstance(event, Notice):
            self.told.append(event.text)

    def is_at(self, target: str, image: Path, image_format: str) -> bool:
        plain = self.folder / f"plain-{target}"
        plain.write_bytes(self.contents[target])
        return same(plain, image, image_format)


def same(plain: Path, image: Path | str, image_format: str) -> bool:
    command = ["qemu-img", "compare", "-q", "-f", "raw", "-F", image_format, str(plain), str(image)]
    return not subprocess.run(command, check=False).returncode


def content(size: int, used: int = 3) -> bytes:
    chance, disk = random.Random(size), bytearray(size)
    for number in range(used):
        place = number * 5 * MIB + 4 * KIB
        disk[place : place + MIB] = chance.randbytes(MIB)
    disk[min(size, 60 * MIB) - 512 : min(size, 60 * MIB)] = chance.randbytes(512)
    return bytes(disk)


DENSE = content(24 * MIB + 512)


@pytest.mark.parametrize("disk", [DENSE, content(SPARSE)], ids=["dense", "sparse"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"cluster_size": "512"},
        {"cluster_size": "4096"},
        {"cluster_size": "2M"},
        {"compat": "0.10"},
        {"cluster_size": "128k", "extended_l2": "on"},
    ],
    ids=lambda options: " ".join(options.values()) or "plain",
)
def test_a_qcow2_file_is_laid_out_as_it_was(tmp_path: Path, options: dict[str, str], disk: bytes) -> None:
    shelf = Shelf(tmp_path, {"vda": disk}, **options)
    image = tmp_path / "old.qcow2"
    image.write_bytes(b"\xff" * MIB)
    (done,) = shelf.restore(output=str(image), disks=["vda"], force=True).disks
    assert done.format == "qcow2"
    assert shelf.is_at("vda", image, "qcow2")
    subprocess.run(["qemu-img", "check", "-q", image], check=True)
    ((was,), (found,)) = (describe(path, "qcow2") for path in (tmp_path / "original-vda.qcow2", image))
    for name in ("compat", "extended-l2"):
        assert found["format-specific"]["data"].get(name) == was["format-specific"]["data"].get(name)
    assert (found["cluster-size"], found["virtual-size"]) == (was["cluster-size"], len(disk))
    assert image.stat().st_blocks * 512 < 24 * MIB
    assert image.stat().st_mode & 0o777 == 0o600


def test_data_in_a_file_of_its_own_is_said_to_be_in_the_image(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, {"vda": DENSE}, data_file=str(tmp_path / "original.raw"))
    image = tmp_path / "new.qcow2"
    shelf.restore(output=str(image), disks=["vda"])
    assert shelf.is_at("vda", image, "qcow2")
    assert shelf.told[-1] == f"disk vda had its data in a file of its own (data-file): {image} holds it now"


def test_the_original_decides_on_the_format_unless_a_suffix_or_an_option_does(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, {"vda": DENSE})
    cases: Sequence[tuple[str, dict[str, str], str]] = [
        ("one", {}, "qcow2"),
        ("two.raw", {}, "raw"),
        ("three.img", {}, "raw"),
        ("four.img", {"format": "qcow2"}, "qcow2"),
        ("five.qcow2", {}, "qcow2"),
    ]
    for name, options, expected in cases:
        (done,) = shelf.restore(output=str(tmp_path / name), disks=["vda"], **options).disks
        assert done.format == expected, name
        assert shelf.is_at("vda", tmp_path / name, expected), name
    (done,) = shelf.restore(output=str(tmp_path / "folder")).disks
    assert done.output == str(tmp_path / "folder" / "vda.qcow2")


def test_several_disks_to_several_targets_at_once(tmp_path: Path) -> None:
    disks = {
        target: content(16 * MIB, 1 + number) for number, target in enumerate(("vda", "vdb", "vdc", "vdd"))
    }
    shelf = Shelf(tmp_path, disks)
    files = {name: tmp_path / name for name in ("device.img", "served.img", "file.raw")}
    for path in files.values():
        path.write_bytes(b"\xff" * 16 * MIB)
    with loop_device(files["device.img"]) as device, ImageServer(files["served.img"], "raw") as server:
        places = {"vda": device, "vdb": server.uri, "vdc": str(files["file.raw"])}
        done = shelf.restore(output=str(tmp_path / "out"), places=places, force=True).disks
    assert {disk.disk: disk.output for disk in done} == places | {"vdd": str(tmp_path / "out" / "vdd.qcow2")}
    for target, path in zip(disks, files.values(), strict=False):
        assert path.read_bytes() == disks[target], target
    assert shelf.is_at("vdd", tmp_path / "out" / "vdd.qcow2", "qcow2")


def test_a_device_that_is_thin_stays_thin(tmp_path: Path) -> None:
    disk = content(SPARSE // 4096 * 4096)
    shelf = Shelf(tmp_path, {"vda": disk})
    old = tmp_path / "device.img"
    with old.open("wb") as file:
        for _ in range(len(disk) // MIB + 8):
            file.write(b"\xff" * MIB)
    rest = old.stat().st_size - len(disk)
    with loop_device(old) as device:
        shelf.restore(output=device, disks=["vda"], force=True)
        assert any("larger than disk vda" in text and "--zero-rest" in text for text in shelf.told)
        assert same_start(device, disk)
        assert used(old) < 4 * MIB + rest
        shelf.restore(output=device, disks=["vda"], force=True, zero_rest=True)
        assert not any("--zero-rest" in text for text in shelf.told)
    assert used(old) < 4 * MIB
    with old.open("rb") as file:
        file.seek(len(disk))
        assert not any(file.read())


def test_a_volume_that_was_made_for_a_disk_keeps_nothing_behind_its_end(tmp_path: Path) -> None:
    """Logical volumes are larger than asked for, and hold what was in their group before."""
    shelf, old = Shelf(tmp_path, {"vda": DENSE}), tmp_path / "old.img"
    old.write_bytes(b"\xff" * (len(DENSE) + MIB))
    (point,) = shelf.repository.points.all()
    with loop_device(old) as device:
        request = Request(None, places={"vda": device}, made=frozenset({device}), libvirts=())
        restore(shelf.repository, point, request)
    assert old.read_bytes() == DENSE + bytes(MIB)


def used(path: Path) -> int:
    os.sync()
    return int(subprocess.run(["du", "-B1", path], check=True, capture_output=True).stdout.split()[0])


def same_start(device: str, disk: bytes) -> bool:
    with Path(device).open("rb") as file:
        return all(file.read(MIB) == disk[at : at + MIB] for at in range(0, len(disk) // MIB * MIB, MIB))


def test_the_rest_of_an_export_can_be_zeroed_too(tmp_path: Path) -> None:
    shelf, old = Shelf(tmp_path, {"vda": DENSE}), tmp_path / "old.img"
    old.write_bytes(b"\xff" * (len(DENSE) + MIB))
    with ImageServer(old, "raw") as server:
        shelf.restore(output=server.uri, disks=["vda"])
        assert any("--zero-rest" in text for text in shelf.told)
        assert old.read_bytes() == DENSE + b"\xff" * MIB
        shelf.restore(output=server.uri, disks=["vda"], zero_rest=True)
    assert old.read_bytes() == DENSE + bytes(MIB)


def test_an_export_that_nobody_serves_is_said_to_be_that(tmp_path: Path) -> None:
    shelf, uri = Shelf(tmp_path, {"vda": DENSE}), f"nbd+unix:///?socket={tmp_path}/nobody"
    with pytest.raises(OutputFailed, match=r"^cannot connect to nbd\+unix:///.*/nobody: ") as failed:
        shelf.restore(output=uri)
    assert "Check that the NBD server runs" in failed.value.advice


def test_the_same_place_twice_is_refused_by_any_name(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, {"vda": DENSE, "vdb": DENSE})
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    places = {"vda": str(tmp_path / "real" / "x.raw"), "vdb": str(tmp_path / "link" / "x.raw")}
    with pytest.raises(UsageError, match="disk vda and disk vdb have the same output"):
        shelf.restore(places=places)
    taken = {"vda": str(tmp_path / "link" / "images.json"), "vdb": str(tmp_path / "y.raw")}
    with pytest.raises(UsageError, match=r"images\.json and disk vda have the same output"):
        shelf.restore(output=str(tmp_path / "real"), places=taken)
    assert list((tmp_path / "real").iterdir()) == []


def test_one_refused_target_leaves_the_others_alone(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, {"vda": DENSE, "vdb": DENSE})
    (tmp_path / "there.raw").write_text("precious")
    with pytest.raises(OutputRefused, match=r"there\.raw exists"):
        shelf.restore(places={"vda": str(tmp_path / "new.raw"), "vdb": str(tmp_path / "there.raw")})
    assert not (tmp_path / "new.raw").exists()


def test_the_target_that_becomes_full_is_named(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, {"vda": DENSE, "vdb": DENSE})
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        places = {"vda": str(small / "a.raw"), "vdb": str(tmp_path / "b.raw")}
        with pytest.raises(OutputFailed, match=rf"^{small}/a\.raw cannot be written: No space left"):
            shelf.restore(places=places)
    finally:
        subprocess.run(["umount", str(small)], check=True)
    assert not list(tmp_path.glob("*b.raw*"))


@pytest.mark.parametrize("kind", ["raw", "qcow2", "device", "export"])
def test_damage_is_named_or_salvaged_on_each_target(tmp_path: Path, kind: str) -> None:
    shelf, old = Shelf(tmp_path, {"vda": DENSE}), tmp_path / f"old.{kind}"
    pack = max(data_packs(tmp_path / "repository"), key=lambda path: path.stat().st_size)
    hurt = bytearray(pack.read_bytes())
    hurt[3 * CHUNK] ^= 1
    pack.write_bytes(hurt)
    old.write_bytes(b"\xff" * 32 * MIB)
    with ExitStack() as stack:
        output, image_format = target_at(stack, old, kind)
        with pytest.raises(DamagedData, match=r"disk vda of point .* is damaged: bytes"):
            shelf.restore(output=output, disks=["vda"], force=True, format=image_format)
        ((_, lost),) = shelf.restore(
            output=output, disks=["vda"], force=True, format=image_format, salvage=True
        ).damage
    expected = bytearray(DENSE)
    expected[lost.offset : lost.offset + lost.length] = bytes(lost.length)
    plain = tmp_path / "expected"
    plain.write_bytes(expected)
    if kind in {"raw", "qcow2"}:
        assert same(plain, old, kind)
    else:
        assert old.read_bytes()[: len(DENSE)] == expected


def target_at(stack: ExitStack, old: Path, kind: str) -> tuple[str, puller.ImageFormat]:
    """The name of a target of this kind that has ``old`` as its storage, and the format to write."""
    if kind == "device":
        return stack.enter_context(loop_device(old)), "raw"
    if kind == "export":
        return stack.enter_context(ImageServer(old, "raw")).uri, "raw"
    return str(old), "qcow2" if kind == "qcow2" else "raw"


KINDS = ("full", "incremental", "rehash", "deduplicated", "pushed", "shut off")


class Points:
    """One point of each kind, by name, and a copy of its disk that puller did not make."""

    def __init__(self, scene: Scene, truth: Truth, other: puller.Point) -> None:
        self._scene = scene
        self._truth = truth
        self._chance = random.Random(5)
        (first,) = puller.list_points(scene.repository, scene.machine.name)
        self.points = {"full": first, "deduplicated": other}
        self.truths = {"full": truth.image("vda", 1), "deduplicated": truth.image("vda", 2)}
        scene.taken = 2

    def take(self, name: str, **options: Any) -> None:
        self.points[name] = self._scene.backup(**options)
        self.truths[name] = self._truth.image("vda", self._scene.taken)

    def change(self, turn: int) -> None:
        machine, place = self._scene.machine, self._chance.randrange(SIZE // CHUNK - 4) * CHUNK
        machine.write("vda", 1 + turn, place + 4 * KIB, 100 * KIB)
        (machine.write_zeroes, machine.unmap_zeroes, machine.discard)[turn % 3](
            "vda", (turn * 9 % 20) * MIB, 128 * KIB
        )


@pytest.fixture
def kinds(scene: Scene, truth: Truth, machine_factory: MachineFactory) -> Iterator[Points]:
    """``incremental`` is the twentieth generation; ``deduplicated`` is of a second domain with that data."""
    second = machine_factory(DiskSpec("vda", SIZE))
    second.copy_in("vda", scene.folder / "noise", 0, 16 * MIB)
    other = puller.backup(scene.repository, second.name, connect=scene.uri, on_frozen=truth)
    assert other.disks[0].new_bytes == 0
    second.stop()
    points = Points(scene, truth, other)
    for generation in range(20):
        points.change(generation)
        points.take("incremental")
    points.change(20)
    points.take("rehash", compare=True)
    points.change(21)
    scene.machine.flush()
    scene.truth = truth.of(scene.machine)
    points.take("pushed", mode="push")
    scene.truth = truth
    points.change(22)
    scene.machine.flush()
    scene.machine.stop()
    points.take("shut off")
    yield points


def test_each_kind_of_point_onto_each_target_and_in_place(
    scene: Scene, kinds: Points, tmp_path: Path
) -> None:
    assert set(kinds.points) == set(KINDS)
    assert kinds.points["rehash"].kind == "rehash"
    for name in KINDS:
        point, truth = kinds.points[name], kinds.truths[name]
        for kind in ("raw", "qcow2", "device", "export"):
            onto(scene.repository, point, truth, kind, tmp_path / f"target.{kind}")
    rollable: list[Callable[[], None]] = []
    for name in KINDS:
        point, truth = kinds.points[name], kinds.truths[name]
        if name != "deduplicated":  # which is of another domain
            rollable.append(lambda point=point, truth=truth: rolled(scene, point, truth))  # type: ignore[misc]
    for roll in (*rollable, *reversed(rollable)):
        roll()


def onto(repository: puller.Repository, point: puller.Point, truth: Path, kind: str, old: Path) -> None:
    old.write_bytes(b"\xff" * SIZE)
    with ExitStack() as stack:
        output, image_format = target_at(stack, old, kind)
        puller.restore(
            repository,
            point.point,
            output=output,
            disks=["vda"],
            format=image_format,
            force=True,
        )
    assert same(truth, old, "qcow2" if kind == "qcow2" else "raw"), f"{point.point} onto {kind}"
    if kind == "qcow2":
        subprocess.run(["qemu-img", "check", "-q", old], check=True)


def rolled(scene: Scene, point: puller.Point, truth: Path) -> None:
    (done,) = puller.rollback(scene.repository, point.point, connect=scene.uri).disks
    assert same(truth, scene.machine.image("vda"), "qcow2"), point.point
    assert done.bytes_compared == 0
