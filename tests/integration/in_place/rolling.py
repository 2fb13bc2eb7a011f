"""What every test of a rollback does to the disks of a domain."""

from __future__ import annotations

import random
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import puller
from puller.units import CHUNK, KIB, MIB
from tests.integration.conftest import SIZE, Scene, Truth
from tests.lab.fixtures import MachineFactory
from tests.lab.machine import DiskSpec


def scribble(scene: Scene, seed: int = 0) -> None:
    """Data over data and over zeros, zeros and discards over data."""
    machine, chance = scene.machine, random.Random(seed)
    for number in range(12):
        place = chance.randrange(SIZE // CHUNK - 4) * CHUNK + chance.choice([0, 4096])
        kinds = (machine.write_zeroes, machine.unmap_zeroes, machine.discard)
        if number % 4:
            machine.write("vda", 1 + number, place, chance.choice([4096, 64 * KIB, 192 * KIB]))
        else:
            kinds[number // 4]("vda", place, 128 * KIB)
    machine.flush()


def is_at(scene: Scene, point: puller.Point) -> bool:
    """Whether the image has exactly what a restore of the point has."""
    plain = scene.folder / f"plain-{point.point}.raw"
    if not plain.exists():
        puller.restore(scene.repository, point.point, output=str(plain), disks=["vda"])
    command = ["qemu-img", "compare", "-q", "-f", "raw", "-F", "qcow2"]
    return not subprocess.run([*command, plain, scene.machine.image("vda")], check=False).returncode


def assert_next_is_incremental(scene: Scene) -> None:
    scene.machine.start()
    scene.machine.write("vda", 77, 3 * MIB, 64 * KIB)
    point = scene.backup()
    assert [disk.kind for disk in point.disks] == ["incremental"]
    scene.assert_exact(point)


def roll(scene: Scene, point: puller.Point, **options: Any) -> puller.RolledBack:
    scene.told = []
    observer = scene._observe
    return puller.rollback(scene.repository, point.point, connect=scene.uri, observer=observer, **options)


def first_of(scene: Scene) -> puller.Point:
    return puller.list_points(scene.repository)[0]


def resize(scene: Scene, size: int) -> None:
    command = ["qemu-img", "resize", "-q", "--shrink", str(scene.machine.image("vda")), str(size)]
    subprocess.run(command, check=True)


def compare(
    scene: Scene, image: Path | str, image_format: str, point: puller.Point, target: str = "vda"
) -> bool:
    """Whether the image has what a restore of the disk of the point has."""
    plain = scene.folder / f"{point.point}-{target}.raw"
    if not plain.exists():
        puller.restore(scene.repository, point.point, output=str(plain), disks=[target])
    command = ["qemu-img", "compare", "-q", "-f", "raw", "-F", image_format, str(plain), str(image)]
    return not subprocess.run(command, check=False).returncode


def put_on(scene: Scene, source: Path | str, kind: str = "file", image_format: str = "qcow2") -> None:
    """Put the disk of the machine, which is off, on another image."""

    def edit(root: ET.Element) -> None:
        disk = root.find("./devices/disk")
        assert disk is not None
        disk.set("type", kind)
        for name, attributes in (
            ("source", {"file" if kind == "file" else "dev": str(source)}),
            ("driver", {"name": "qemu", "type": image_format}),
        ):
            element = disk.find(f"./{name}")
            assert element is not None
            element.attrib.clear()
            element.attrib.update(attributes)

    scene.redefine(edit)


def two_disks(machine_factory: MachineFactory, uri: str, folder: Path, truth: Truth) -> Scene:
    scene = Scene(machine_factory(DiskSpec("vda", SIZE), DiskSpec("vdb", SIZE)), uri, folder, truth)
    for target in ("vda", "vdb"):
        scene.fill(target)
    scene.backup()
    return scene
