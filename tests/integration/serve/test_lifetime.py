"""How long a server lives, and what is left when it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from contextlib import closing
from pathlib import Path

import pytest

import puller
from puller.errors import PointKept
from puller.nbd.connection import Connection
from puller.units import MIB
from tests.integration.serve.archive import (
    CONTENT,
    SIZE,
    SMALL,
    Archive,
    begin,
    children,
    command_line,
    environment,
    is_alive,
    read,
    run_puller,
    until,
)


def test_a_served_point_is_kept_and_let_go(own_archive: Archive) -> None:
    repository = own_archive.repository
    with own_archive.serve() as server:
        until(lambda: bool(puller.list_kept(repository)))
        (kept,) = puller.list_kept(repository)
        assert "served by process" in kept.note
        with pytest.raises(PointKept):
            puller.delete(repository, [own_archive.point.point])
        assert read(server.uri("vdb"), 0, len(SMALL)) == SMALL
    assert not puller.list_kept(repository)
    assert puller.delete(repository, [own_archive.point.point])


def test_the_repository_is_as_before(own_archive: Archive) -> None:
    def files() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in Path(own_archive.url).rglob("*") if path.is_file()}

    before = files()
    with own_archive.serve() as server:
        read(server.uri("vda"), 0, SIZE // 4)
    assert files() == before


def test_the_server_dies_with_a_puller_that_is_killed(own_archive: Archive, tmp_path: Path) -> None:
    process, document = begin(own_archive, "--socket", str(tmp_path / "socket"))
    (pid,) = children(process.pid)
    assert read(document["uri"], MIB, 10) == CONTENT[MIB : MIB + 10]
    process.kill()
    process.wait()
    until(lambda: not is_alive(pid))
    assert not puller.list_kept(own_archive.repository)
    # The socket that is left is no obstacle.
    process, document = begin(own_archive, "--socket", str(tmp_path / "socket"))
    assert read(document["uri"], MIB, 10) == CONTENT[MIB : MIB + 10]
    process.terminate()
    assert process.wait(30) == 0
    assert not (tmp_path / "socket").exists()


def test_a_client_that_is_idle_does_not_keep_a_server_alive(own_archive: Archive) -> None:
    process, document = begin(own_archive)
    (pid,) = children(process.pid)
    with closing(Connection(document["uri"])) as connection:
        assert connection.read(10, MIB) == CONTENT[MIB : MIB + 10]
        process.kill()
        process.wait()
        until(lambda: not is_alive(pid))


def test_the_directory_of_a_killed_server_is_removed_by_the_next(own_archive: Archive) -> None:
    process, document = begin(own_archive)
    folder = Path(document["uri"].partition("socket=")[2]).parent
    process.kill()
    process.wait()
    assert folder.exists()
    with own_archive.serve():
        assert not folder.exists()


def test_a_server_outlives_the_thread_that_started_it(archive: Archive) -> None:
    """The kernel notifies nbdkit when the thread that started it ends, not when the process does."""
    begun: list[puller.Server] = []
    thread = threading.Thread(target=lambda: begun.append(archive.serve("vdb")))
    thread.start()
    thread.join()
    (server,) = begun
    with server:
        for _ in range(50):
            assert read(server.uri(), 0, 10) == SMALL[:10]
        assert is_alive(server.pid)


def test_an_nbdkit_that_dies_is_an_error(own_archive: Archive) -> None:
    process, _ = begin(own_archive)
    (pid,) = children(process.pid)
    os.kill(pid, signal.SIGKILL)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "puller: nbdkit has ended" in errors


def test_the_command_prints_uris_and_ends_on_a_signal(archive: Archive) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        process, document = begin(archive)
        assert [item["disk"] for item in document["exports"]] == ["vda", "vdb"]
        assert document["uri"] == document["exports"][0]["uri"]
        assert [item["size"] for item in document["exports"]] == [SIZE, len(SMALL)]
        assert read(document["exports"][1]["uri"], 0, 10) == SMALL[:10]
        (pid,) = children(process.pid)
        process.send_signal(number)
        out, errors = process.communicate(timeout=30)
        assert (process.returncode, out, errors) == (0, "", "")
        assert not is_alive(pid)
    assert not puller.list_kept(archive.repository)


def test_a_command_runs_as_long_as_the_server(archive: Archive, tmp_path: Path) -> None:
    out = tmp_path / "out"
    script = f'nbdcopy "$uri" {out}; nbdinfo --size "$PULLER_URI_vdb" >&2; '
    done = run_puller(archive, "--run", script + 'cat "$PULLER_EXPORTS"; exit 7')
    assert (done.returncode, done.stderr) == (7, f"{len(SMALL)}\n")
    assert out.read_bytes() == CONTENT
    assert [item["disk"] for item in json.loads(done.stdout)["exports"]] == ["vda", "vdb"]
    with_json = run_puller(archive, "--json", "--run", "echo more")
    assert json.loads(with_json.stdout).keys() == {"uri", "exports"}
    assert with_json.stderr == "more\n"
    assert run_puller(archive, "--run", "kill -9 $$").returncode == 128 + signal.SIGKILL


def test_a_signal_ends_the_command_with_all_that_it_started(archive: Archive, tmp_path: Path) -> None:
    told = tmp_path / "pid"
    words = command_line(
        archive, "--run", f"sleep 600 & echo $! > {told}.new; mv {told}.new {told}; wait; true"
    )
    with subprocess.Popen(words, env=environment(), stdin=subprocess.DEVNULL) as process:
        until(told.exists)
        process.terminate()
        assert process.wait(30) == 130
    until(lambda: not is_alive(int(told.read_text())))
