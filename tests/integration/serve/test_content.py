"""What clients of a served point read and learn."""

from __future__ import annotations

import json
import random
import subprocess
import threading
from contextlib import closing
from pathlib import Path

import pytest

import puller
from puller.errors import NbdError, NoSuchDisk
from puller.nbd.block_status import block_status
from puller.nbd.connection import Connection
from puller.units import CHUNK, KIB, MIB
from tests.integration.serve.archive import CONTENT, PASSWORD, SIZE, SMALL, Archive, read
from tests.lab.archive import make_point
from tests.lab.guest import (
    BARE_DISK,
    FILLED,
    SYSTEM_DISK,
    Console,
    build_initramfs,
    make_bare_disk,
    make_system_disk,
)
from tests.lab.kernel import Kernel


def test_a_copy_of_an_export_is_the_disk(archive: Archive, tmp_path: Path) -> None:
    with archive.serve() as server:
        for disk, content in (("vda", CONTENT), ("vdb", SMALL)):
            subprocess.run(["nbdcopy", server.uri(disk), str(tmp_path / disk)], check=True)
            assert (tmp_path / disk).read_bytes() == content


def test_the_export_equals_the_restored_file_to_qemu(archive: Archive, tmp_path: Path) -> None:
    restored = tmp_path / "vda.raw"
    puller.restore(archive.repository, "web1@latest", output=str(restored), disks=["vda"], format="raw")
    with archive.serve("vda") as server:
        words = ["qemu-img", "compare", "-f", "raw", "-F", "raw", str(restored), server.uri("vda")]
        compared = subprocess.run(words, capture_output=True, text=True, check=False)
    assert compared.stdout == "Images are identical.\n"


def test_a_client_learns_names_sizes_and_rights(archive: Archive) -> None:
    with archive.serve() as server:
        words = ["nbdinfo", "--json", "--list", server.uri()]
        listed = json.loads(subprocess.run(words, capture_output=True, check=True).stdout)
    exports = {item["export-name"]: item for item in listed["exports"]}
    assert {name: item["export-size"] for name, item in exports.items()} == {
        "vda": SIZE,
        "vdb": 3 * CHUNK,
    }
    assert archive.point.point in exports["vda"]["description"]
    assert all(item["is_read_only"] and item["can_multi_conn"] for item in exports.values())
    assert exports["vda"]["block_size_minimum"] == 1


def test_holes_are_known(archive: Archive) -> None:
    with archive.serve() as server, closing(Connection(server.uri("vda"), "base:allocation")) as connection:
        zeros = [(at, length) for at, length, flags in block_status(connection, 0, SIZE) if flags]
    data = [
        (0, MIB),
        (4 * MIB, 16 * MIB),
        (60 * MIB, 6 * MIB),
        (66 * MIB + CHUNK, 64 * MIB - CHUNK),
    ]
    assert _merged(zeros) == data


def _merged(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for offset, length in ranges:
        if merged and sum(merged[-1]) == offset:
            merged[-1] = merged[-1][0], merged[-1][1] + length
        else:
            merged.append((offset, length))
    return merged


def test_reads_at_odd_offsets(archive: Archive) -> None:
    chance = random.Random(3)
    edges = [0, MIB, 4 * MIB, 20 * MIB, 60 * MIB, 64 * MIB, 66 * MIB, SIZE]
    with archive.serve() as server, closing(Connection(server.uri("vda"))) as connection:
        for _ in range(200):
            begin = max(chance.choice(edges) + chance.randrange(-CHUNK, CHUNK), 0)
            end = min(begin + chance.randrange(1, 3 * CHUNK), SIZE)
            if begin < end:
                assert connection.read(end - begin, begin) == CONTENT[begin:end]
        assert connection.read(1, SIZE - 1) == CONTENT[-1:]
        assert connection.read(32 * MIB, 30 * MIB) == CONTENT[30 * MIB : 62 * MIB]


def test_eight_readers_at_once(archive: Archive) -> None:
    wrong: list[str] = []
    done: list[int] = []

    def work(number: int, uri: str) -> None:
        chance = random.Random(number)
        with closing(Connection(uri)) as connection:
            for _ in range(60):
                begin = chance.randrange(SIZE - MIB)
                length = chance.choice([1, 512, 4 * KIB, CHUNK, MIB])
                if connection.read(length, begin) != CONTENT[begin : begin + length]:
                    wrong.append(f"reader {number} at {begin}")
        done.append(number)

    with archive.serve("vda", cache_size=16 * MIB) as server:
        readers = [threading.Thread(target=work, args=[number, server.uri()]) for number in range(8)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
    assert sorted(done) == list(range(8))
    assert not wrong


def test_a_client_that_names_no_disk_gets_the_first(archive: Archive) -> None:
    with archive.serve() as server:
        assert read(f"nbd+unix:///?socket={server.socket}", MIB, 100) == CONTENT[MIB : MIB + 100]
        with pytest.raises(NbdError, match="vdz"):
            read(f"nbd+unix:///vdz?socket={server.socket}", 0, 1)


def test_only_the_disks_that_were_named_are_served(archive: Archive) -> None:
    with archive.serve("vdb") as server:
        assert [export.disk for export in server.exports] == ["vdb"]
        with pytest.raises(NbdError):
            read(f"nbd+unix:///vda?socket={server.socket}", 0, 1)
        with pytest.raises(NoSuchDisk):
            server.uri("vda")
    with pytest.raises(NoSuchDisk, match="no disk vdz; it has vda, vdb"):
        archive.serve("vdz")


def test_writes_go_to_an_overlay_of_each_disk(archive: Archive, tmp_path: Path) -> None:
    with archive.serve(writable=True) as server:
        for disk, content in (("vda", b"first"), ("vdb", b"second")):
            with closing(Connection(server.uri(disk))) as connection:
                assert not connection.read_only
                connection.write(CHUNK - 2, memoryview(content))
                connection.write_zeroes([(2 * CHUNK, CHUNK)])
                connection.flush()
        for disk, before, written in (("vda", CONTENT, b"first"), ("vdb", SMALL, b"second")):
            subprocess.run(["nbdcopy", server.uri(disk), str(tmp_path / disk)], check=True)
            truth = bytearray(before)
            truth[CHUNK - 2 : CHUNK - 2 + len(written)] = written
            truth[2 * CHUNK : 3 * CHUNK] = bytes(CHUNK)
            assert (tmp_path / disk).read_bytes() == truth
    with archive.serve() as server, closing(Connection(server.uri("vdb"))) as connection:
        assert connection.read_only
        assert connection.read(len(SMALL), 0) == SMALL
        with pytest.raises(NbdError):
            connection.write(0, memoryview(b"no"))


def test_a_guest_starts_on_a_served_point_and_writes(tmp_path: Path) -> None:
    """It mounts its file system from the store and writes to it; the point does not change."""
    make_system_disk(tmp_path / "vda.qcow2", SYSTEM_DISK, FILLED)
    make_bare_disk(tmp_path / "vdb.qcow2", BARE_DISK)
    contents = {}
    for target in ("vda", "vdb"):
        image, raw = str(tmp_path / f"{target}.qcow2"), tmp_path / f"{target}.raw"
        subprocess.run(["qemu-img", "convert", "-O", "raw", image, str(raw)], check=True)
        contents[target] = raw.read_bytes()
    url = str(tmp_path / "repository")
    make_point(puller.create_repository(url, password=PASSWORD), contents)
    kernel, console = Kernel.find(), Console(tmp_path / "console")
    build_initramfs(kernel, tmp_path / "initramfs")
    repository = puller.open_repository(url, password=PASSWORD)
    before = {path: path.read_bytes() for path in Path(url, "packs").rglob("*") if path.is_file()}
    with puller.serve(repository, "web1@latest", writable=True) as server:
        drives = [f"file={server.uri(target)},format=raw,if=virtio,discard=unmap" for target in contents]
        words = ["qemu-system-x86_64", "-machine", "q35,accel=tcg", "-cpu", "qemu64,+rdrand", "-m", "128"]
        words += ["-display", "none", "-nodefaults", "-serial", f"file:{console.path}", "-no-reboot"]
        words += ["-kernel", str(kernel.image), "-initrd", str(tmp_path / "initramfs")]
        words += ["-append", "console=ttyS0 quiet panic=-1 mitigations=off no_timer_check puller.agent=none"]
        words += [word for drive in drives for word in ("-drive", drive)]
        with subprocess.Popen(words) as machine:
            try:
                console.wait_generation(5, 300)
            finally:
                machine.kill()
    with puller.serve(repository, "web1@latest") as server:
        for target, content in contents.items():
            subprocess.run(["nbdcopy", server.uri(target), str(tmp_path / "copy")], check=True)
            assert (tmp_path / "copy").read_bytes() == content
    assert {path: path.read_bytes() for path in before} == before
