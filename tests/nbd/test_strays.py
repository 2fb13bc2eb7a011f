"""Image servers that a killed puller never became a client of end at the next run, and nothing else does."""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

from puller.cancelling import CancelScope
from puller.host import runtime
from puller.host.access import LOCAL
from puller.hypervisor.storage import imagelock
from puller.nbd.connection import Connection
from puller.nbd.image import ImageServer
from puller.nbd.qemu_nbd import DISTANT_FOLDER, SOCKET_FOLDER, socket_uri
from puller.nbd.strays import end_strays
from puller.units import MIB
from tests.host.test_access import by_ssh


@pytest.fixture
def above(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of all sockets, which is the test's own."""
    made = tmp_path / "above"
    made.mkdir(mode=0o700)
    monkeypatch.setattr(runtime, "runtime_directory", lambda: made)
    return made


@pytest.fixture
def stray(above: Path, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server without a client, in a folder that no process holds."""
    with server_in(above / f"{SOCKET_FOLDER}gone", tmp_path / "image") as server:
        yield server


@contextmanager
def server_in(folder: Path, image: Path) -> Iterator[subprocess.Popen[bytes]]:
    image.write_bytes(bytes(MIB))
    folder.mkdir()
    command = ["qemu-nbd", "--shared=0", f"--socket={folder / 'socket'}", f"--pid-file={folder / 'pid'}"]
    with subprocess.Popen([*command, "--format=raw", str(image)]) as server:
        deadline = time.monotonic() + 30
        while not (folder / "pid").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        try:
            yield server
        finally:
            server.kill()


def test_a_server_without_its_puller_ends(above: Path, stray: subprocess.Popen[bytes]) -> None:
    end_strays(LOCAL, CancelScope())
    assert stray.wait(30) == 0
    assert list(above.iterdir()) == []


def test_the_files_of_a_server_that_ended_with_its_puller_are_removed(
    above: Path, stray: subprocess.Popen[bytes]
) -> None:
    folder = next(above.iterdir())
    Connection(socket_uri(folder / "socket")).drop()
    assert stray.wait(30) == 0
    (folder / "log").write_text("")
    end_strays(LOCAL, CancelScope())
    assert list(above.iterdir()) == []


def test_the_server_of_a_living_puller_goes_on(above: Path, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(MIB))
    with ImageServer.read_only(image, "raw") as server:
        end_strays(LOCAL, CancelScope())
        assert len(list(above.iterdir())) == 1
        Connection(server.uri).close()


@pytest.mark.parametrize("apart", [-3600.0, 0.0, 3600.0], ids=["behind", "same", "ahead"])
def test_servers_of_another_host_whose_clock_differs(
    above: Path, tmp_path: Path, apart: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that its puller has just started is left alone; the one without a puller ends."""
    host = by_ssh(tmp_path)
    monkeypatch.setattr(host, "runtime_directory", lambda: above)
    stray, starting = above / f"{DISTANT_FOLDER}gone", above / f"{DISTANT_FOLDER}starting"
    with server_in(stray, tmp_path / "one") as ended, server_in(starting, tmp_path / "other") as left:
        os.utime(stray, (0, time.time() - 600))
        now = time.time
        monkeypatch.setattr(time, "time", lambda: now() + apart)
        end_strays(host, CancelScope())
        assert ended.wait(30) == 0
        assert left.poll() is None
    host.close()


def test_another_host_that_is_too_slow_to_answer_fails_no_backup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = by_ssh(tmp_path)

    def hang(words: Sequence[str], seconds: float, *_: object) -> NoReturn:
        raise subprocess.TimeoutExpired(words, seconds)

    monkeypatch.setattr(host, "run", hang)
    end_strays(host, CancelScope())
    with pytest.raises(OSError, match="timed out"):
        imagelock.is_open(tmp_path / "image", "qcow2", host)
    host.close()


def test_what_nobody_will_answer_in_any_more_is_removed(above: Path) -> None:
    old, new = above / f"{SOCKET_FOLDER}old", above / f"{SOCKET_FOLDER}new"
    for folder in (old, new):
        folder.mkdir()
    os.utime(old, (0, 0))
    end_strays(LOCAL, CancelScope())
    assert list(above.iterdir()) == [new]


def test_a_folder_that_another_run_looks_at_is_locked_a_moment_later(above: Path) -> None:
    looking = threading.Event()
    make = runtime._make

    def made_and_seen(prefix: str, socket: str) -> tempfile.TemporaryDirectory[str]:
        folder = make(prefix, socket)
        threading.Thread(target=look, args=[Path(folder.name)]).start()
        looking.wait(30)
        return folder

    def look(folder: Path) -> None:
        for found in runtime.abandoned(SOCKET_FOLDER):
            assert found == folder
            looking.set()
            time.sleep(0.1)  # the folder's owner comes meanwhile, most likely

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime, "_make", made_and_seen)
        folder = runtime.SocketFolder(SOCKET_FOLDER, "socket")
    assert list(runtime.abandoned(SOCKET_FOLDER)) == []
    folder.cleanup()
    assert list(above.iterdir()) == []
