"""Restores to every kind of output give the same bytes, and refuse before they touch anything."""

from __future__ import annotations

import os
import random
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

import puller
from puller.errors import DamagedData, NoSuchDisk, NoSuchPoint, OutputFailed, OutputRefused, UsageError
from puller.nbd.image import ImageServer
from puller.repository.points import DiskRecord, Point, Ref, new_id
from puller.units import CHUNK, MIB
from tests.lab.feed import store_disk

UUID = "1f80ae13-49df-4e30-9b5a-d185a32acbbc"
SIZE = 70 * MIB + 512 * 3
_NOISE = random.Random(7).randbytes
CONTENT = bytearray(SIZE)
CONTENT[MIB : 4 * MIB] = _NOISE(3 * MIB)
CONTENT[66 * MIB : 66 * MIB + 5] = b"hello"
CONTENT[-512:] = _NOISE(512)


class Archive:
    """A repository with one point of two disks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.repository = puller.create_repository(str(folder / "repository"), password=None)
        now = datetime.now(UTC)
        records = tuple(
            DiskRecord(target, "full", len(content), Ref.to(store_disk(self.repository, content)[0]))
            for target, content in (("vda", bytes(CONTENT)), ("vdb", _NOISE(3 * CHUNK)))
        )
        self.point = Point(new_id(now), "web1", UUID, now, "pull", "full", records)
        self.repository.points.commit(self.point)

    def restore(self, output: object, *disks: str, **options: bool | str) -> puller.recovery.restore.Restored:
        return puller.restore(self.repository, "web1@latest", output=str(output), disks=disks, **options)  # type: ignore[arg-type]

    def only_pack_of(self, target: str) -> Path:
        """The pack that holds most of a disk, which was stored by a run of its own."""
        packs = sorted(
            (self.folder / "repository" / "packs").rglob("*"), key=lambda path: path.stat().st_size
        )
        files = [path for path in packs if path.is_file()]
        return files[-1] if target == "vda" else files[0]


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(tmp_path)


def test_raw_folder_is_exact_and_sparse(archive: Archive, tmp_path: Path) -> None:
    done = archive.restore(tmp_path / "out")
    assert [disk.disk for disk in done.disks] == ["vda", "vdb"]
    assert (tmp_path / "out" / "vda.raw").read_bytes() == bytes(CONTENT)
    assert (tmp_path / "out" / "vda.raw").stat().st_blocks * 512 < 8 * MIB
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"vda.raw", "vdb.raw"}


def test_qcow2_is_exact_and_small(archive: Archive, tmp_path: Path) -> None:
    archive.restore(tmp_path / "out", format="qcow2")
    truth = tmp_path / "truth"
    truth.write_bytes(bytes(CONTENT))
    image = tmp_path / "out" / "vda.qcow2"
    compare = ["qemu-img", "compare", "-f", "qcow2", "-F", "raw", str(image), str(truth)]
    subprocess.run(compare, check=True, capture_output=True)
    assert image.stat().st_blocks * 512 < 8 * MIB


def test_a_file(archive: Archive, tmp_path: Path) -> None:
    archive.restore(tmp_path / "new" / "disk.img", "vda")
    assert (tmp_path / "new" / "disk.img").read_bytes() == bytes(CONTENT)


def test_somebodys_export_that_holds_other_data(archive: Archive, tmp_path: Path) -> None:
    image = tmp_path / "old.img"
    image.write_bytes(b"\xff" * (SIZE + 1024))
    with ImageServer(image, "raw") as server:
        archive.restore(server.uri, "vda")
    assert image.read_bytes() == bytes(CONTENT) + b"\xff" * 1024


def test_an_export_that_is_too_small(archive: Archive, tmp_path: Path) -> None:
    image = tmp_path / "old.img"
    image.write_bytes(b"\xff" * MIB)
    with ImageServer(image, "raw") as server, pytest.raises(OutputRefused, match="1048576"):
        archive.restore(server.uri, "vda")
    assert image.read_bytes() == b"\xff" * MIB


@pytest.mark.parametrize("sector", [512, 4096])
def test_a_block_device_that_holds_other_data(archive: Archive, tmp_path: Path, sector: int) -> None:
    image = tmp_path / "device.img"
    image.write_bytes(b"\xff" * (SIZE // 4096 * 4096 + 4096))
    command = ["losetup", "--find", "--show", f"--sector-size={sector}", str(image)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no loop devices here: {made.stderr.strip()}")
    device = made.stdout.strip()
    try:
        with pytest.raises(OutputRefused, match="block device"):
            archive.restore(device, "vda")
        archive.restore(device, "vda", force=True)
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)
    assert image.read_bytes()[:SIZE] == bytes(CONTENT)


@pytest.mark.parametrize("format_", ["raw", "qcow2"])
def test_what_is_there_is_refused_and_force_replaces_it(
    archive: Archive, tmp_path: Path, format_: str
) -> None:
    old = tmp_path / "out" / f"vdb.{format_}"
    old.parent.mkdir()
    old.write_text("precious")
    with pytest.raises(OutputRefused, match="exists"):
        archive.restore(tmp_path / "out", format=format_)
    assert [path.name for path in old.parent.iterdir()] == [old.name]
    assert old.read_text() == "precious"
    archive.restore(tmp_path / "out", format=format_, force=True)
    assert old.stat().st_size > 8


def test_wrong_requests(archive: Archive, tmp_path: Path) -> None:
    with pytest.raises(NoSuchDisk, match="vdz"):
        archive.restore(tmp_path / "out", "vdz")
    with pytest.raises(UsageError, match="vmdk"):
        archive.restore(tmp_path / "out", format="vmdk")
    with pytest.raises(NoSuchPoint):
        puller.restore(archive.repository, "nobody@latest", output=str(tmp_path / "out"))
    (tmp_path / "file").touch()
    with pytest.raises(OutputRefused):
        archive.restore(tmp_path / "file" / "out")
    assert not (tmp_path / "out").exists()


def test_damage_keeps_the_other_disk_and_salvage_the_rest(archive: Archive, tmp_path: Path) -> None:
    pack = archive.only_pack_of("vda")
    body = bytearray(pack.read_bytes())
    body[5 * CHUNK] ^= 1
    pack.write_bytes(body)
    with pytest.raises(DamagedData, match=f"disk vda of point {archive.point.point} is damaged: bytes"):
        archive.restore(tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"vdb.raw"}
    saved = archive.restore(tmp_path / "saved", salvage=True)
    ((disk, lost),) = saved.damage
    assert (disk, lost.length) == ("vda", CHUNK)
    assert bytes(CONTENT[lost.offset : lost.offset + CHUNK]) != bytes(CHUNK)
    expected = bytearray(CONTENT)
    expected[lost.offset : lost.offset + lost.length] = bytes(CHUNK)
    assert (tmp_path / "saved" / "vda.raw").read_bytes() == bytes(expected)


def test_check_names_what_is_hurt(archive: Archive) -> None:
    pack = archive.only_pack_of("vda")
    body = bytearray(pack.read_bytes())
    body[5 * CHUNK] ^= 1
    pack.write_bytes(body)
    assert puller.check(archive.repository).errors == ()
    again = puller.open_repository(archive.repository.store.url)
    (error,) = puller.check(again, read_data=100).errors
    assert (error.point, error.disk, error.length) == (archive.point.point, "vda", CHUNK)
    assert error.offset in range(MIB, 4 * MIB, CHUNK)
    pack.unlink()
    missing = puller.check(puller.open_repository(archive.repository.store.url)).errors
    assert sum(item.length or 0 for item in missing) == 3 * MIB + CHUNK + SIZE % CHUNK


def test_a_full_output_fails_and_leaves_nothing(archive: Archive, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        with pytest.raises(OutputFailed, match="No space left"):
            archive.restore(small / "out", "vda")
        assert not [name for _, _, files in os.walk(small) for name in files]
    finally:
        subprocess.run(["umount", str(small)], check=True)
