"""Writing to real servers, from several threads."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from puller.errors import NbdError
from puller.nbd.block_status import block_status
from puller.nbd.connection import Connection
from puller.nbd.image import ImageServer, create_qcow2
from puller.nbd.writer import Target
from puller.units import CHUNK, GIB, MIB
from tests.nbd.lab import WAIT_SECONDS, make_qcow2, nbdkit, raw_content, run


def test_threads_write_one_image(tmp_path: Path) -> None:
    image, truth = tmp_path / "disk.qcow2", os.urandom(16 * MIB)
    create_qcow2(image, len(truth))
    with ImageServer(image, "qcow2") as server, Target(server.uri) as target:
        assert target.size == len(truth)
        write_by_threads(target, truth)
        target.flush()
    assert raw_content(image) == truth


def write_by_threads(target: Target, truth: bytes | bytearray) -> None:
    def work(first: int) -> None:
        for offset in range(first * CHUNK, len(truth), 8 * CHUNK):
            target.write(offset, memoryview(truth)[offset : offset + CHUNK])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_SECONDS)


@pytest.mark.parametrize(
    "arguments",
    [
        ("memory", "16M"),
        ("--filter=multi-conn", "memory", "16M", "multi-conn-mode=disable"),
        ("--filter=nozero", "memory", "16M", "zeromode=none"),
        (
            "--filter=blocksize-policy",
            "memory",
            "16M",
            "blocksize-maximum=1M",
            "blocksize-error-policy=error",
        ),
    ],
    ids=["plain", "one connection", "no write-zeroes", "small requests"],
)
def test_writes_and_zeros_arrive(tmp_path: Path, arguments: Sequence[str]) -> None:
    truth = bytearray(os.urandom(16 * MIB))
    with nbdkit(tmp_path, *arguments) as server:
        with Target(server.uri) as target:
            write_by_threads(target, truth)
            target.write(MIB, memoryview(truth)[MIB : 8 * MIB])  # more than one request where they are small
            target.zero([(3 * MIB + CHUNK, 2 * MIB + 512)])
            target.flush()
        truth[3 * MIB + CHUNK : 5 * MIB + CHUNK + 512] = bytes(2 * MIB + 512)
        assert run("nbdcopy", server.uri, "-") == truth


def test_one_connection_is_enough_where_more_are_not_coherent(tmp_path: Path) -> None:
    options = ["--filter=limit", "--filter=multi-conn", "memory", "1M", "limit=1", "multi-conn-mode=disable"]
    with nbdkit(tmp_path, *options) as server, Target(server.uri) as target:
        write_by_threads(target, bytes(MIB))
        target.flush()


def test_zeroing_an_image_leaves_holes(tmp_path: Path) -> None:
    image = make_qcow2(tmp_path / "disk.qcow2", 6 * GIB, "write -P 1 1M 8M", "write -P 1 5G 64k")
    with ImageServer(image, "qcow2") as server:
        with Target(server.uri) as target:
            target.zero([(0, 6 * GIB)])
            target.flush()
        connection = Connection(server.uri, "base:allocation")
        assert {flags for _, _, flags in block_status(connection, 0, 6 * GIB)} == {3}  # hole, reads as zero
        connection.close()


def test_zeros_shorter_than_the_least_hole_keep_their_place(tmp_path: Path) -> None:
    image = make_qcow2(tmp_path / "disk.qcow2", 4 * MIB, "write -P 1 0 4M")
    with ImageServer(image, "qcow2") as server, Target(server.uri) as target:
        target.zero([(CHUNK, CHUNK), (2 * MIB, MIB)], least_hole=MIB)
        target.flush()
    found = json.loads(run("qemu-img", "map", "--output=json", image))
    assert [(part["start"], part["length"], "offset" in part) for part in found if part["zero"]] == [
        (CHUNK, CHUNK, True),
        (2 * MIB, MIB, False),
    ]


def test_one_write_may_be_longer_than_the_server_takes(tmp_path: Path) -> None:
    """qemu-nbd hangs up on requests above 32 MiB."""
    image, truth = tmp_path / "disk.raw", os.urandom(40 * MIB)
    image.write_bytes(bytes(len(truth)))
    with ImageServer(image, "raw") as server, Target(server.uri) as target:
        target.write(0, memoryview(truth))
    assert image.read_bytes() == truth


def test_a_refused_write_is_named(tmp_path: Path) -> None:
    failing = ["--filter=error", "memory", "1M", "error-rate=100%"]
    with (
        nbdkit(tmp_path, *failing, "error=ENOSPC") as server,
        Target(server.uri) as target,
    ):
        with pytest.raises(NbdError, match=r"write of 512 bytes at 131072 of nbd\+unix.*ENOSPC"):
            target.write(2 * CHUNK, memoryview(bytes(512)))
        with pytest.raises(NbdError, match=r"zeroing of 65536 bytes at 131072 of nbd\+unix.*ENOSPC"):
            target.zero([(2 * CHUNK, CHUNK)])


def test_a_server_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with nbdkit(tmp_path, "memory", "1M") as server, Target(server.uri) as target:
        server.kill()
        for _ in range(5):  # more often than there are connections
            with pytest.raises(NbdError, match="write of 512 bytes at 0"):
                target.write(0, memoryview(bytes(512)))
        with pytest.raises(NbdError, match="flush of nbd"):
            target.flush()


def test_a_read_only_export_is_refused(tmp_path: Path) -> None:
    with (
        nbdkit(tmp_path, "--readonly", "memory", "1M") as server,
        pytest.raises(NbdError, match="is read-only"),
    ):
        Target(server.uri)
