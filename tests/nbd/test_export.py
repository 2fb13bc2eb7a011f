"""What an export tells of a disk: by real qemu-nbd, nbdkit, and a server that misbehaves."""

from __future__ import annotations

import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import nbd
import pytest

from puller.cancelling import CancelScope
from puller.errors import NbdError
from puller.nbd import connection, library
from puller.nbd.block_status import LONG_WINDOW, WINDOW, block_status
from puller.nbd.connection import Connection
from puller.nbd.export import Export
from puller.nbd.image import ImageServer
from puller.units import CHUNK, GIB, KIB, MIB, TIB, Extent, Kind
from tests.nbd.lab import (
    WAIT_SECONDS,
    CountedExport,
    Served,
    add_bitmap,
    await_end,
    make_qcow2,
    nbdkit,
    qemu_io,
)
from tests.nbd.rogue import Descriptors, RogueServer

DATA, ZERO = Kind.DATA, Kind.ZERO

REFUSED = "Protocol error"
"""What the libnbd of Debian 13 answers to odd block status replies. That of Debian 12 hands them on."""


def changes_of(image: Path) -> list[Extent]:
    with (
        ImageServer.read_only(image, "qcow2", bitmap="b0") as server,
        Export(server.uri, "qemu:dirty-bitmap:b0") as export,
    ):
        return list(export.changes())


def test_changes_tell_writes_zeroing_and_discards(tmp_path: Path) -> None:
    image = make_qcow2(tmp_path / "disk.qcow2", 8 * MIB, "write -P 1 0 8M")
    add_bitmap(image, "b0")
    qemu_io(image, "write -P 2 1M 64k", "write -z 2M 128k", "discard 3M 64k", "write -P 3 4194816 512")
    with (
        ImageServer.read_only(image, "qcow2", bitmap="b0") as server,
        Export(server.uri, "qemu:dirty-bitmap:b0") as export,
    ):
        assert export.size == 8 * MIB
        assert export.dirty_bytes() == 5 * CHUNK
        assert list(export.dirty()) == [
            Extent(MIB, CHUNK, DATA),
            Extent(2 * MIB, 2 * CHUNK, DATA),
            Extent(3 * MIB, CHUNK, DATA),
            Extent(4 * MIB, CHUNK, DATA),
        ]
        assert list(export.changes()) == [
            Extent(MIB, CHUNK, DATA),
            Extent(2 * MIB, 2 * CHUNK, ZERO),
            Extent(3 * MIB, CHUNK, ZERO),
            Extent(4 * MIB, CHUNK, DATA),
        ]


def test_a_fine_bitmap_yields_whole_chunks(tmp_path: Path) -> None:
    """A chunk of which a part became zero is data, unless all the rest of it is zero too."""
    image = make_qcow2(tmp_path / "disk", MIB, "write -P 1 0 1M", "write -z 512k 48k", cluster="4k")
    add_bitmap(image, "b0:4k")
    qemu_io(image, "write -z 64k 4k", "write -P 2 196608 512", "write -z 560k 16k")
    assert changes_of(image) == [
        Extent(CHUNK, CHUNK, DATA),
        Extent(3 * CHUNK, CHUNK, DATA),
        Extent(8 * CHUNK, CHUNK, ZERO),
    ]


def test_the_last_chunk_ends_with_the_disk(tmp_path: Path) -> None:
    size = 1000448
    image = make_qcow2(tmp_path / "disk.qcow2", size, "write -P 1 0 128k", bitmap="b0")
    last = size // CHUNK * CHUNK
    qemu_io(image, f"write -P 2 {last} 512")
    assert changes_of(image) == [Extent(0, 2 * CHUNK, DATA), Extent(last, size - last, DATA)]
    qemu_io(image, f"write -z {last} {size - last}")
    assert changes_of(image) == [Extent(0, 2 * CHUNK, DATA), Extent(last, size - last, ZERO)]


def test_contents_cover_a_disk_beyond_4_gib(tmp_path: Path) -> None:
    size = 3 * TIB
    image = make_qcow2(tmp_path / "disk.qcow2", size, "write -P 1 5G 64k", f"write -P 2 {size - 512} 512")
    with ImageServer.read_only(image, "qcow2") as server, Export(server.uri) as export:
        assert list(export.contents()) == [
            Extent(0, 5 * GIB, ZERO),
            Extent(5 * GIB, CHUNK, DATA),
            Extent(5 * GIB + CHUNK, size - 5 * GIB - 2 * CHUNK, ZERO),
            Extent(size - CHUNK, CHUNK, DATA),
        ]
        assert export.dirty_bytes() == 2 * CHUNK


def test_changes_of_a_huge_disk_cost_what_changed(tmp_path: Path) -> None:
    """The bitmap of 3 TiB is asked in few windows, the allocation only where something is dirty."""
    image = make_qcow2(tmp_path / "disk.qcow2", 3 * TIB, bitmap="b0")
    dense = [f"write -P 1 {2 * TIB + number * 2 * CHUNK} 512" for number in range(500)]
    qemu_io(image, "write -P 1 6G 64k", "write -z 6656M 64k", *dense)
    with (
        ImageServer.read_only(image, "qcow2", bitmap="b0") as server,
        CountedExport(server.uri, "qemu:dirty-bitmap:b0") as export,
    ):
        assert [extent.offset for extent in export.changes()][:3] == [6 * GIB, 6656 * MIB, 2 * TIB]
        long = export.data.has_long_requests
        assert long == both_know_extended_headers()
        # a long window covers more dirty extents than are asked for at once, but not more than a reply holds
        assert export.status_requests == -(-3 * TIB // (LONG_WINDOW if long else WINDOW)) + 3


def both_know_extended_headers() -> bool:
    """Whether libnbd (since 1.18) and QEMU (since 8.2) do, by their versions."""
    told = subprocess.run(["qemu-nbd", "--version"], check=True, capture_output=True, text=True).stdout
    qemu = re.search(r"qemu-nbd (\d+)\.(\d+)", told)
    assert qemu is not None
    libnbd = tuple(map(int, library.version().split(".")))
    return libnbd >= (1, 18) and tuple(map(int, qemu.groups())) >= (8, 2)


@pytest.mark.parametrize(("is_long", "longest"), [(False, WINDOW), (True, LONG_WINDOW)])
def test_only_a_connection_with_extended_headers_gets_requests_over_4_gib(
    is_long: bool, longest: int
) -> None:
    """For a disk with an unaligned end; the server always reports all of it as one extent."""
    size, asked = 3 * TIB + 512, list[tuple[int, int]]()

    def begin(offset: int, length: int) -> tuple[int, int]:
        asked.append((offset, length))
        return offset, length

    server = SimpleNamespace(
        has_long_requests=is_long, begin_status=begin, end_status=lambda pending: [(pending[1], 0)]
    )
    found = list(block_status(cast(Connection, server), 0, size))
    assert found == [(offset, length, 0) for offset, length in asked]
    assert max(length for _, length in asked) == longest
    assert (longest > 4 * GIB) == is_long
    assert sum(length for _, length in asked) == size


def test_a_bitmap_is_asked_once_unless_there_is_too_much_to_remember(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = make_qcow2(tmp_path / "disk.qcow2", 64 * GIB, bitmap="b0")
    qemu_io(image, "write -P 1 6G 64k", "write -P 1 9G 64k", "write -z 40G 64k")
    wanted = [Extent(6 * GIB, CHUNK, DATA), Extent(9 * GIB, CHUNK, DATA), Extent(40 * GIB, CHUNK, ZERO)]
    for kept, passes in ((3, 1), (2, 2)):
        monkeypatch.setattr("puller.nbd.export._KEPT", kept)
        with (
            ImageServer.read_only(image, "qcow2", bitmap="b0") as server,
            CountedExport(server.uri, "qemu:dirty-bitmap:b0") as export,
        ):
            assert export.dirty_bytes() == 3 * CHUNK
            assert list(export.changes()) == wanted
            windows = 1 if export.data.has_long_requests else 19
            assert export.status_requests == passes * windows + 3
            assert list(export.changes(32 * GIB))[-1].end == 64 * GIB  # asked anew for another old size


def test_a_hole_that_may_hold_anything_is_data(tmp_path: Path) -> None:
    def holes(_offset: int, length: int) -> Descriptors:
        return [(CHUNK, 1), (CHUNK, 3), (CHUNK, 2), (length - 3 * CHUNK, 0)]

    with RogueServer(tmp_path, MIB, holes) as server, Export(server.uri) as export:
        assert list(export.contents()) == [
            Extent(0, CHUNK, DATA),
            Extent(CHUNK, 2 * CHUNK, ZERO),
            Extent(3 * CHUNK, 13 * CHUNK, DATA),
        ]


def test_chunks_are_those_that_were_asked_for(tmp_path: Path) -> None:
    size = 9 * CHUNK + 512
    image = make_qcow2(
        tmp_path / "disk.qcow2", size, f"write -P 1 {CHUNK} 64k", f"write -P 2 {size - 512} 512"
    )
    with ImageServer.read_only(image, "qcow2") as server, Export(server.uri) as export:
        numbers = [9, 1, 0, 8]
        found = export.chunks(numbers)
        assert found == [export.chunk(number) for number in numbers]
        assert [content[:1] for content in found] == [b"\2", b"\1", b"\0", b"\0"]


def test_an_unknown_bitmap_is_named(tmp_path: Path) -> None:
    image = make_qcow2(tmp_path / "disk.qcow2", MIB, bitmap="b0")
    with ImageServer.read_only(image, "qcow2", bitmap="b0") as server:
        with pytest.raises(NbdError, match="does not offer metadata context 'qemu:dirty-bitmap:b1'"):
            Export(server.uri, "qemu:dirty-bitmap:b1")
        with Export(server.uri, "qemu:dirty-bitmap:b0") as export:
            assert export.size == MIB


def test_a_server_without_structured_replies_is_refused(tmp_path: Path) -> None:
    with (
        nbdkit(tmp_path, "--no-sr", "null", "1M") as server,
        pytest.raises(NbdError, match="does not offer structured replies"),
    ):
        Export(server.uri)


@pytest.mark.parametrize(
    ("path", "said"), [("missing", "No such file or directory"), ("nbdkit.sock&x", "unknown|No such")]
)
def test_a_server_that_is_not_there_is_named(tmp_path: Path, path: str, said: str) -> None:
    uri = f"nbd+unix:///disk?socket={tmp_path / path}"
    with pytest.raises(NbdError, match=said) as caught:
        Export(uri)
    assert uri in caught.value.message
    assert "nbd_connect" not in caught.value.message


def test_short_replies_are_followed_by_more_requests(tmp_path: Path) -> None:
    """One chunk a reply, data and zero in turns, from a real server."""
    extents = f"if [ $(($4 / {CHUNK} % 2)) = 0 ]; then echo $4 {CHUNK}; else echo $4 {CHUNK} hole,zero; fi"
    plugin = ["eval", "get_size=echo 1048576", "can_extents=exit 0", "pread=head -c $3 /dev/zero"]
    with nbdkit(tmp_path, *plugin, f"extents={extents}") as server, CountedExport(server.uri) as export:
        plan = list(export.contents())
        assert plan == [Extent(at * CHUNK, CHUNK, ZERO if at % 2 else DATA) for at in range(16)]
        assert export.status_requests == 16


def test_a_short_reply_among_several_requests_leaves_no_gap(tmp_path: Path) -> None:
    """Where requests are in flight together, the one behind a short reply begins too late."""
    kinds, turns = (0, 3), [0]

    def shorter(offset: int, length: int) -> Descriptors:
        turns[0] += 1
        told = GIB if turns[0] % 3 == 2 else length
        half = offset // (512 * MIB)
        return [(512 * MIB, kinds[(half + step) % 2]) for step in range(told // (512 * MIB))]

    size = 64 * GIB
    with RogueServer(tmp_path, size, shorter) as server, Export(server.uri) as export:
        found = list(block_status(export.data, 0, size))
    assert [(offset, flags) for offset, _, flags in found] == [
        (number * 512 * MIB, kinds[number % 2]) for number in range(size // (512 * MIB))
    ]
    assert {length for _, length, _ in found} == {512 * MIB}


def contents_unless_refused(export: Export) -> list[Extent] | str:
    """The extents, or REFUSED if libnbd refuses the reply before puller sees it."""
    try:
        return list(export.contents())
    except NbdError as error:
        return REFUSED if REFUSED in error.message else error.message


def test_a_reply_that_overruns_is_cut(tmp_path: Path) -> None:
    """The protocol lets the last extent of a reply go beyond the request, never beyond what is asked here."""

    def overrun(offset: int, _length: int) -> Descriptors:
        return [(CHUNK, 3), (4 * GIB - CHUNK, 0)] if offset == 0 else [(4 * GIB - CHUNK, 0)]

    with RogueServer(tmp_path, 3 * GIB, overrun) as server, Export(server.uri) as export:
        expected = [Extent(0, CHUNK, ZERO), Extent(CHUNK, 3 * GIB - CHUNK, DATA)]
        assert contents_unless_refused(export) in (expected, REFUSED)


def test_empty_extents_are_passed_over(tmp_path: Path) -> None:
    with (
        RogueServer(tmp_path, MIB, lambda _, length: [(0, 0), (max(512, length // 2), 3)]) as server,
        Export(server.uri) as export,
    ):
        assert contents_unless_refused(export) in ([Extent(0, MIB, ZERO)], REFUSED)


@pytest.mark.parametrize("descriptors", [None, [(0, 3)], [(0, 0), (0, 0)]])
def test_a_reply_without_progress_is_an_error(tmp_path: Path, descriptors: Descriptors | None) -> None:
    with (
        RogueServer(tmp_path, MIB, lambda _offset, _length: descriptors) as server,
        Export(server.uri) as export,
        pytest.raises(NbdError, match=f"returns no base:allocation at 0|{REFUSED}"),
    ):
        list(export.contents())


@pytest.fixture
def mute(tmp_path: Path) -> Iterator[str]:
    """The URI of a server that takes connections and says nothing."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "mute"))
        listener.listen()
        yield f"nbd+unix:///?socket={tmp_path / 'mute'}"


def test_a_server_that_says_nothing_is_given_up(mute: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_GREETING", 0.01)
    with pytest.raises(NbdError, match=r"cannot connect to .*: the server is silent for 0.01 s"):
        Export(mute)


def test_an_opening_that_waits_can_be_interrupted(mute: str) -> None:
    scope = CancelScope()
    threading.Thread(target=scope.cancel).start()
    with pytest.raises(NbdError, match="cannot connect to"):
        Export(mute, scope=scope)


def test_a_block_status_without_an_answer_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    silence = threading.Event()

    def silent(_offset: int, _length: int) -> Descriptors:
        silence.wait(WAIT_SECONDS)
        return [(CHUNK, 0)]

    with RogueServer(tmp_path, MIB, silent) as server:
        export = Export(server.uri)
        monkeypatch.setattr(connection, "_SILENCE", 0.01)
        with pytest.raises(NbdError, match=r"has been silent for 0.01 s"):
            list(export.contents())
        export.drop()
        silence.set()


def test_interrupt_ends_a_call_that_waits(tmp_path: Path) -> None:
    """From another thread, while the owner waits for a server that keeps silent."""
    asked = threading.Event()
    silence = threading.Event()

    def silent(_offset: int, _length: int) -> Descriptors:
        asked.set()
        silence.wait(WAIT_SECONDS)
        return [(CHUNK, 0)]

    with RogueServer(tmp_path, MIB, silent) as server, Export(server.uri) as export:

        def interrupt() -> None:
            asked.wait(WAIT_SECONDS)
            export.interrupt()

        helper = threading.Thread(target=interrupt)
        helper.start()
        try:
            with pytest.raises(NbdError, match="block status at 0"):
                list(export.contents())
        finally:
            silence.set()
            helper.join()


@pytest.fixture
def fleeting(tmp_path: Path) -> Served:
    """A qemu-nbd with bitmap ``b0``. Without --persistent it ends with its last client."""
    image = make_qcow2(tmp_path / "disk.qcow2", MIB, bitmap="b0")
    socket, pidfile = tmp_path / "socket", tmp_path / "pid"
    options = ["--shared=0", "--read-only", "--bitmap=b0", "--format=qcow2"]
    # --fork returns when the server is up; its pid is in the file then.
    command = ["qemu-nbd", "--fork", f"--socket={socket}", f"--pid-file={pidfile}", *options, str(image)]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    return Served(f"nbd+unix:///?socket={socket}", int(pidfile.read_text()))


def test_close_leaves_no_connection(fleeting: Served) -> None:
    with Export(fleeting.uri, "qemu:dirty-bitmap:b0") as export:
        assert list(export.changes()) == []
    await_end(fleeting.pid)


def test_a_failed_opening_leaves_no_connection(fleeting: Served) -> None:
    with pytest.raises(NbdError) as caught:
        Export(fleeting.uri, "qemu:dirty-bitmap:b1")
    await_end(fleeting.pid)
    assert "b1" in caught.value.message  # which also keeps alive what the frames of the error refer to


def test_a_closed_export_says_so(tmp_path: Path) -> None:
    image = make_qcow2(tmp_path / "disk.qcow2", MIB)
    with ImageServer.read_only(image, "qcow2") as server:
        with Export(server.uri) as export:
            pass
        export.close()
        with pytest.raises(NbdError, match="is closed"):
            export.dirty_bytes()


def test_a_dirty_kibibyte_at_the_end_of_a_large_disk(tmp_path: Path) -> None:
    size = 9 * GIB + 1536
    image = make_qcow2(tmp_path / "disk.qcow2", size, bitmap="b0:512")
    qemu_io(image, f"write -P 1 {size - KIB} 1k")
    assert changes_of(image) == [Extent(9 * GIB, 1536, DATA)]


@pytest.mark.parametrize("uri", ["nbd+unix:///?socket=/\udcff", "nbd+unix:///?socket=/\0", "nonsense", ""])
def test_a_uri_that_libnbd_does_not_take(uri: str) -> None:
    with pytest.raises(NbdError, match="cannot connect"):
        Connection(uri)


def test_what_was_agreed_upon_is_asked_after_the_end() -> None:
    """Whatever libnbd says then, it is an error of ours."""
    connection = Connection.__new__(Connection)
    connection.uri, connection._handle = "nbd://here", nbd.NBD()
    for question in ("size", "read_only", "can_zero", "can_share"):
        with pytest.raises(NbdError, match="nbd://here"):
            getattr(connection, question)
