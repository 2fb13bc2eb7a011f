"""Reading planned extents, by real servers, some of which fail."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puller.errors import NbdError
from puller.nbd.export import Export
from puller.nbd.extents import merged
from puller.nbd.image import ImageServer
from puller.nbd.reader import read
from puller.pipeline.buffers import BufferPool
from puller.pipeline.lane import Closed
from puller.pipeline.readgate import GentleGate, OpenGate, ReadGate
from puller.units import CHUNK, KIB, MIB, Extent, Kind
from tests.nbd.lab import (
    WAIT_SECONDS,
    Copy,
    CountedExport,
    add_bitmap,
    make_qcow2,
    nbdkit,
    qemu_io,
    raw_content,
    stale_pool,
    take_all,
)
from tests.nbd.rogue import RogueServer

WINDOW = 4 * MIB
CHUNKS = 100
SIZE = CHUNKS * CHUNK - 512
"""Of a raw image whose last chunk is partial."""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reader") / "disk.raw"
    path.write_bytes(os.urandom(SIZE))
    return path


@pytest.fixture(scope="module")
def uri(image: Path) -> Iterator[str]:
    with ImageServer.read_only(image, "raw") as server:
        yield server.uri


def ignore(_extent: Extent) -> None:
    pass


def test_a_full_read_equals_the_image(uri: str, image: Path) -> None:
    with CountedExport(uri) as export:
        copy = Copy(export, export.contents(), stale_pool(), OpenGate(WINDOW))
        assert copy.content == image.read_bytes()
        assert copy.planned == [Extent(0, SIZE, Kind.DATA)]
        assert (export.bytes_read, export.read_requests) == (SIZE, 13)


@settings(max_examples=60, deadline=None)
@given(
    kinds=st.lists(
        st.sampled_from([Kind.DATA, Kind.DATA, Kind.ZERO, None]), min_size=CHUNKS, max_size=CHUNKS
    ),
    buffers=st.integers(1, 4),
    buffer_chunks=st.integers(1, 20),
    gate=st.builds(OpenGate, st.integers(1, 3 * MIB)) | st.builds(GentleGate, st.integers(1, 3 * MIB)),
    joined=st.booleans(),
)
def test_any_plan_reads_right_with_any_buffers(
    uri: str,
    image: Path,
    kinds: list[Kind | None],
    buffers: int,
    buffer_chunks: int,
    gate: ReadGate,
    joined: bool,
) -> None:
    """Extents of single chunks, and ``joined`` ones that begin in one buffer and end in another."""
    truth = image.read_bytes()
    plan = [
        Extent(number * CHUNK, min(CHUNK, SIZE - number * CHUNK), kind)
        for number, kind in enumerate(kinds)
        if kind is not None
    ]
    plan = list(merged(plan)) if joined else plan
    expected = bytearray(b"\xee" * SIZE)
    for extent in plan:
        content = truth[extent.offset : extent.end] if extent.kind is Kind.DATA else bytes(extent.length)
        expected[extent.offset : extent.end] = content
    pool = stale_pool(buffers, buffer_chunks * CHUNK)
    with Export(uri) as export:
        copy = Copy(export, iter(plan), pool, gate)
    assert copy.content == expected
    assert copy.planned == plan
    data = kinds.count(Kind.DATA)
    assert copy.batches == -(-data // buffer_chunks)
    assert len(take_all(pool)) == buffers


def test_an_incremental_read_makes_the_disk_of_now_of_the_disk_of_then(tmp_path: Path) -> None:
    """An odd size, stale buffers, data that became zero."""
    size = 1000448
    image = make_qcow2(tmp_path / "disk.qcow2", size, f"write -P 1 0 {size}")
    disk = bytearray(raw_content(image))
    add_bitmap(image, "b0")
    qemu_io(
        image, "write -P 2 64k 1k", "discard 256k 128k", "write -z 576k 64k", f"write -P 3 {size - 512} 512"
    )
    with (
        ImageServer.read_only(image, "qcow2", bitmap="b0") as server,
        CountedExport(server.uri, "qemu:dirty-bitmap:b0") as export,
    ):
        copy = Copy(export, export.changes(), stale_pool(), OpenGate(WINDOW))
        assert export.bytes_read == CHUNK + size % CHUNK
    for extent in copy.planned:
        disk[extent.offset : extent.end] = copy.content[extent.offset : extent.end]
    assert disk == raw_content(image)


def test_scattered_chunks_share_a_buffer(uri: str) -> None:
    plan = [Extent(number * 2 * CHUNK, CHUNK, Kind.DATA) for number in range(32)]
    with CountedExport(uri) as export:
        copy = Copy(export, iter(plan), stale_pool(), OpenGate(WINDOW))
        assert (copy.batches, export.read_requests) == (2, 32)


@pytest.mark.parametrize("gate", [OpenGate(WINDOW), GentleGate(WINDOW)], ids=["open", "gentle"])
def test_readers_that_share_a_small_pool_do_not_wait_for_each_other(
    uri: str, image: Path, gate: ReadGate
) -> None:
    pool = stale_pool(2, 2 * CHUNK)
    contents: list[bytearray] = []

    def work() -> None:
        with Export(uri) as export:
            contents.append(Copy(export, export.contents(), pool, gate).content)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_SECONDS)
    truth = image.read_bytes()
    assert [content == truth for content in contents] == [True] * 4


def test_a_bad_sector_is_named(tmp_path: Path) -> None:
    """A server that fails with EIO from 3 MiB to 3 MiB + 64 KiB."""
    disk, bad = tmp_path / "disk", tmp_path / "map"
    disk.write_bytes(b"x" * (8 * MIB))
    bad.write_text("0 + 1\n0x0 0x300000 +\n0x300000 0x10000 -\n0x310000 0x4F0000 +\n")
    pool = stale_pool(8)
    with (
        nbdkit(tmp_path, "--filter=ddrescue", "file", str(disk), f"ddrescue-mapfile={bad}") as server,
        Export(server.uri) as export,
        pytest.raises(NbdError, match=r"read of 524288 bytes at 3145728 of nbd\+unix.*\(EIO\)"),
    ):
        Copy(export, export.contents(), pool, OpenGate(WINDOW))
    assert len(take_all(pool)) == 8


def test_a_server_that_is_killed_while_reading_is_an_error(tmp_path: Path) -> None:
    pool = stale_pool(8)
    with nbdkit(tmp_path, "pattern", "64M") as server, Export(server.uri) as export:
        batches = read(export, export.contents(), pool, gate=OpenGate(WINDOW), planned=ignore)
        next(batches).release()
        server.kill()
        with pytest.raises(NbdError, match=rf" at \d+ of {re.escape(server.uri)} failed"):
            for batch in batches:
                batch.release()
        assert len(take_all(pool)) == 8
        with pytest.raises(NbdError):
            export.dirty_bytes()


def test_stopping_early_gives_all_buffers_back(uri: str) -> None:
    pool = stale_pool(8, 256 * KIB)
    with Export(uri) as export:
        batches = read(export, export.contents(), pool, gate=OpenGate(WINDOW), planned=ignore)
        with closing(batches):
            next(batches).release()
        buffers = take_all(pool)
        assert len(buffers) == 8
        before = [bytes(buffer.view) for buffer in buffers]
        export.close()
        assert [bytes(buffer.view) for buffer in buffers] == before


def test_a_closed_pool_ends_the_reading(uri: str) -> None:
    pool = BufferPool(4, 64 * KIB)
    with Export(uri) as export:
        batches = read(export, export.contents(), pool, gate=OpenGate(WINDOW), planned=ignore)
        held = [next(batches)]
        pool.close()
        with pytest.raises(Closed):
            held.extend(batches)


def test_interrupt_ends_a_read_that_waits(tmp_path: Path) -> None:
    pool = stale_pool(8)
    with (
        RogueServer(tmp_path, 16 * MIB, lambda _, length: [(length, 0)]) as server,
        Export(server.uri) as export,
    ):

        def interrupt() -> None:
            server.reading.wait(WAIT_SECONDS)
            export.interrupt()

        helper = threading.Thread(target=interrupt)
        helper.start()
        with pytest.raises(NbdError, match=r"at \d+ of nbd"):
            Copy(export, export.contents(), pool, OpenGate(WINDOW))
        helper.join()
    assert len(take_all(pool)) == 8
