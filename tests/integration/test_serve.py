"""A point served over NBD: what clients read, what they see of faults, and how the server ends."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import puller
from puller.errors import NbdError, NoSuchDisk, PointKept, ServeFailed, UsageError
from puller.events import Event, Notice
from puller.nbd.block_status import block_status
from puller.nbd.connection import Connection
from puller.repository.points import DiskRecord, Point, Ref, new_id
from puller.units import CHUNK, KIB, MIB
from tests.lab.archive import data_packs, make_point
from tests.lab.feed import store_disk
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
from tests.lab.s3server import free_ports
from tests.lab.seaweed import Seaweed

UUID = "1f80ae13-49df-4e30-9b5a-d185a32acbbc"
SIZE = 130 * MIB + 512 * 3
NOISE = random.Random(7).randbytes
PASSWORD = "correct horse"
SMALL = NOISE(3 * CHUNK)


def _content() -> bytes:
    """Data that begins and ends at odd places, holes, and a disk that does not end with a chunk."""
    content = bytearray(SIZE)
    content[MIB : 4 * MIB] = NOISE(3 * MIB)
    content[20 * MIB + 5 : 60 * MIB] = NOISE(40 * MIB - 5)
    content[66 * MIB : 66 * MIB + 5] = b"hello"
    content[-512:] = NOISE(512)
    return bytes(content)


CONTENT = _content()


@dataclass(frozen=True)
class Archive:
    """A repository with one point of two disks."""

    url: str
    repository: puller.Repository
    point: Point

    def serve(self, *disks: str, **options: Any) -> puller.Server:
        return puller.serve(self.repository, "web1@latest", disks=disks, **options)


def _archive(url: str) -> Archive:
    repository = puller.create_repository(url, password=PASSWORD)
    now = datetime.now(UTC)
    records = tuple(
        DiskRecord(target, "full", len(content), Ref.to(store_disk(repository, content)[0]))
        for target, content in (("vda", CONTENT), ("vdb", SMALL))
    )
    point = Point(new_id(now), "web1", UUID, now, "pull", "full", records)
    repository.points.commit(point)
    return Archive(url, repository, point)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """Nobody may change it."""
    return _archive(str(tmp_path_factory.mktemp("archive") / "repository"))


@pytest.fixture
def own_archive(archive: Archive, tmp_path: Path) -> Archive:
    """A copy that the test may damage."""
    shutil.copytree(archive.url, tmp_path / "repository")
    url = str(tmp_path / "repository")
    return Archive(url, puller.open_repository(url, password=PASSWORD), archive.point)


def read(uri: str, offset: int, length: int) -> bytes:
    with closing(Connection(uri)) as connection:
        return connection.read(length, offset)


def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait for a condition, at most so long."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    """A zombie is not: its parent may be gone, and nobody here collects it."""
    with suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


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


def _damage(archive: Archive) -> None:
    """Change one byte in the middle of the largest pack."""
    packs = [path for path in Path(archive.url, "packs").rglob("*") if path.is_file()]
    largest = max(packs, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.chmod(0o600)
    largest.write_bytes(content)


def test_a_damaged_chunk_is_an_error_for_its_range_only(own_archive: Archive) -> None:
    _damage(own_archive)
    told: list[Event] = []
    lost = []
    with own_archive.serve(observer=told.append) as server:
        for chunk in range(-(-SIZE // CHUNK)):
            offset = chunk * CHUNK
            length = min(CHUNK, SIZE - offset)
            try:
                assert read(server.uri("vda"), offset, length) == CONTENT[offset : offset + length]
            except NbdError as error:
                assert "Input/output error" in error.message
                lost.append(offset)
        assert len(lost) == 1
        for _ in range(2):
            with pytest.raises(NbdError):
                read(server.uri("vda"), lost[0] + 1, 1)
        assert read(server.uri("vdb"), 0, len(SMALL)) == SMALL
    texts = [event.text for event in told if isinstance(event, Notice)]
    assert len(texts) == 1
    assert f"disk vda is damaged from byte {lost[0]} to {lost[0] + CHUNK - 1}" in texts[0]
    assert all(event.subject == own_archive.point.point for event in told if isinstance(event, Notice))


def test_a_store_that_comes_back_is_waited_for(seaweed_of_its_own: Seaweed) -> None:
    archive = _archive("s3://served/repository")
    told: list[str] = []

    def observe(event: Event) -> None:
        if isinstance(event, Notice):
            told.append(event.text)

    with archive.serve(observer=observe) as server, closing(Connection(server.uri("vda"))) as connection:
        assert connection.read(100, MIB) == CONTENT[MIB : MIB + 100]
        seaweed_of_its_own.stop()
        found: list[bytes] = []
        reader = threading.Thread(target=lambda: found.append(connection.read(5 * MIB, 40 * MIB)))
        reader.start()
        until(lambda: any("does not answer" in text for text in told))
        seaweed_of_its_own.restart()
        reader.join(100)
        assert found == [CONTENT[40 * MIB : 45 * MIB]]
    assert any("answers again" in text for text in told)


@pytest.fixture
def seaweed_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Seaweed]:
    with Seaweed(tmp_path / "seaweed") as server:
        server.use(monkeypatch)
        server.make_bucket("served")
        yield server


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


def test_neither_password_nor_keys_can_be_seen(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULLER_PASSWORD", PASSWORD)
    monkeypatch.setenv("PULLER_LUKS_PASSPHRASE", "of the guest")
    keys = archive.repository.keys
    assert keys.private is not None
    secrets = [
        PASSWORD.encode(),
        b"of the guest",
        keys.private.hex().encode(),
        keys.metadata_key.hex().encode(),
    ]
    with archive.serve() as server:
        process = Path(f"/proc/{server.pid}")
        seen = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        assert b"plugin.py" in seen
        assert not [secret for secret in secrets if secret in seen]
        assert server.socket is not None
        assert server.socket.parent.stat().st_mode & 0o77 == 0


def test_the_server_dies_with_a_puller_that_is_killed(own_archive: Archive, tmp_path: Path) -> None:
    process, document = _begin(own_archive, "--socket", str(tmp_path / "socket"))
    (pid,) = _children(process.pid)
    assert read(document["uri"], MIB, 10) == CONTENT[MIB : MIB + 10]
    process.kill()
    process.wait()
    until(lambda: not is_alive(pid))
    assert not puller.list_kept(own_archive.repository)
    # The socket that is left is no obstacle.
    process, document = _begin(own_archive, "--socket", str(tmp_path / "socket"))
    assert read(document["uri"], MIB, 10) == CONTENT[MIB : MIB + 10]
    process.terminate()
    assert process.wait(30) == 0
    assert not (tmp_path / "socket").exists()


def test_a_client_that_is_idle_does_not_keep_a_server_alive(own_archive: Archive) -> None:
    process, document = _begin(own_archive)
    (pid,) = _children(process.pid)
    with closing(Connection(document["uri"])) as connection:
        assert connection.read(10, MIB) == CONTENT[MIB : MIB + 10]
        process.kill()
        process.wait()
        until(lambda: not is_alive(pid))


def test_the_directory_of_a_killed_server_is_removed_by_the_next(own_archive: Archive) -> None:
    process, document = _begin(own_archive)
    folder = Path(document["uri"].partition("socket=")[2]).parent
    process.kill()
    process.wait()
    assert folder.exists()
    with own_archive.serve():
        assert not folder.exists()


def test_a_server_outlives_the_thread_that_started_it(archive: Archive) -> None:
    """The kernel tells nbdkit of the end of the thread that it is a child of, not of the process."""
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
    process, _ = _begin(own_archive)
    (pid,) = _children(process.pid)
    os.kill(pid, signal.SIGKILL)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "puller: nbdkit has ended" in errors


def test_the_command_prints_uris_and_ends_on_a_signal(archive: Archive) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        process, document = _begin(archive)
        assert [item["disk"] for item in document["exports"]] == ["vda", "vdb"]
        assert document["uri"] == document["exports"][0]["uri"]
        assert [item["size"] for item in document["exports"]] == [SIZE, len(SMALL)]
        assert read(document["exports"][1]["uri"], 0, 10) == SMALL[:10]
        (pid,) = _children(process.pid)
        process.send_signal(number)
        out, errors = process.communicate(timeout=30)
        assert (process.returncode, out, errors) == (0, "", "")
        assert not is_alive(pid)
    assert not puller.list_kept(archive.repository)


def test_a_port_on_loopback(archive: Archive) -> None:
    port = next(free_ports())
    with archive.serve("vda", port=port) as server:
        assert server.uri() == f"nbd://127.0.0.1:{port}/vda"
        assert read(server.uri(), MIB, 10) == CONTENT[MIB : MIB + 10]
        with pytest.raises(ServeFailed, match="ddress already in use"):
            archive.serve("vda", port=port)


def _certificates(folder: Path) -> Path:
    """A CA, a server of the name localhost, and a client, as nbdkit-tls(1) wants them."""
    folder.mkdir()

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    ca = ["-keyout", "ca-key.pem", "-out", "ca-cert.pem", "-subj", "/CN=ca"]
    openssl("req", "-x509", *key, *ca)
    for name in ("server", "client"):
        (folder / "names").write_text("subjectAltName=DNS:localhost\n")
        openssl("req", *key, "-keyout", f"{name}-key.pem", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        signing = ["-CA", "ca-cert.pem", "-CAkey", "ca-key.pem", "-CAcreateserial", "-extfile", "names"]
        openssl("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}-cert.pem", *signing)
    return folder


def test_tls_demands_a_certificate_of_the_same_ca(archive: Archive, tmp_path: Path) -> None:
    folder, others = _certificates(tmp_path / "ours"), _certificates(tmp_path / "theirs")
    port = next(free_ports())
    with archive.serve(port=port, tls_certificates=str(folder)) as server:
        assert server.uri().startswith("nbds://")
        sizes = {}
        for name, where in (
            ("ours", f"?tls-certificates={folder}"),
            ("theirs", f"?tls-certificates={others}"),
        ):
            words = ["nbdinfo", "--size", f"nbds://localhost:{port}/vda{where}"]
            sizes[name] = subprocess.run(words, capture_output=True, text=True, check=False).stdout
        # Who trusts this server, and is not trusted by it:
        shutil.copy(folder / "ca-cert.pem", others / "ca-cert.pem")
        words = ["nbdinfo", "--size", f"nbds://localhost:{port}/vda?tls-certificates={others}"]
        assert subprocess.run(words, capture_output=True, check=False).returncode
        plain = ["nbdinfo", "--size", f"nbd://localhost:{port}/vda"]
        assert subprocess.run(plain, capture_output=True, check=False).returncode
    assert sizes == {"ours": f"{SIZE}\n", "theirs": ""}


def test_a_command_runs_as_long_as_the_server(archive: Archive, tmp_path: Path) -> None:
    out = tmp_path / "out"
    script = f'nbdcopy "$uri" {out}; nbdinfo --size "$PULLER_URI_vdb" >&2; '
    done = _puller(archive, "--run", script + 'cat "$PULLER_EXPORTS"; exit 7')
    assert (done.returncode, done.stderr) == (7, f"{len(SMALL)}\n")
    assert out.read_bytes() == CONTENT
    assert [item["disk"] for item in json.loads(done.stdout)["exports"]] == ["vda", "vdb"]
    with_json = _puller(archive, "--json", "--run", "echo more")
    assert json.loads(with_json.stdout).keys() == {"uri", "exports"}
    assert with_json.stderr == "more\n"
    assert _puller(archive, "--run", "kill -9 $$").returncode == 128 + signal.SIGKILL


def test_a_signal_ends_the_command_with_all_that_it_started(archive: Archive, tmp_path: Path) -> None:
    told = tmp_path / "pid"
    words = _words(archive, "--run", f"sleep 600 & echo $! > {told}.new; mv {told}.new {told}; wait; true")
    with subprocess.Popen(words, env=_environment(), stdin=subprocess.DEVNULL) as process:
        until(told.exists)
        process.terminate()
        assert process.wait(30) == 130
    until(lambda: not is_alive(int(told.read_text())))


def test_what_cannot_be_served_is_refused(archive: Archive, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for options, message in (
        ({"socket": str(tmp_path / "file")}, "is not a socket"),
        ({"socket": str(tmp_path / "no" / "socket")}, "no such directory"),
        ({"socket": "/tmp/" + "x" * 110}, "too long"),
        ({"socket": "s", "port": 1}, "a socket and at a port"),
        ({"port": 70000}, "invalid port"),
        ({"tls_certificates": str(tmp_path)}, "needs a port"),
        ({"port": 12345, "tls_certificates": str(tmp_path)}, "has no ca-cert.pem"),
        ({"cache_size": 1000}, "too small"),
    ):
        with pytest.raises(UsageError, match=message):
            archive.serve(**options)
    assert (tmp_path / "file").read_text() == "mine"
    with archive.serve(socket=str(tmp_path / "socket")), pytest.raises(UsageError, match="a server listens"):
        archive.serve(socket=str(tmp_path / "socket"))


def test_an_overlay_without_a_place_is_refused(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/nonexistent")
    with pytest.raises(ServeFailed, match="cannot make a temporary file"):
        archive.serve(writable=True)


def test_a_plugin_of_another_python_is_named(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.version_info", (3, 99))
    with pytest.raises(ServeFailed, match=r"runs Python 3\.\d+, but puller runs 3\.99$") as caught:
        archive.serve()
    assert "/usr/bin/python3" in caught.value.advice


def test_a_missing_nbdkit_is_named(archive: Archive, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = puller.list_kept(archive.repository)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServeFailed, match="not installed") as caught:
        archive.serve()
    assert "nbdkit-plugin-python" in caught.value.advice
    assert puller.list_kept(archive.repository) == before


def _words(archive: Archive, *options: str) -> list[str]:
    return [sys.executable, "-m", "puller.cli", "-r", archive.url, "serve", "web1@latest", *options]


def _environment() -> dict[str, str]:
    return {**os.environ, "PULLER_PASSWORD": PASSWORD}


def _puller(archive: Archive, *options: str) -> subprocess.CompletedProcess[str]:
    words = _words(archive, *options)
    return subprocess.run(words, env=_environment(), capture_output=True, text=True, timeout=120, check=False)


def _begin(archive: Archive, *options: str) -> tuple[subprocess.Popen[str], dict[str, Any]]:
    """A server of its own, and its document."""
    words = _words(archive, "--json", *options)
    pipe = subprocess.PIPE
    process = subprocess.Popen(words, env=_environment(), stdout=pipe, stderr=pipe, text=True)
    assert process.stdout is not None
    return process, json.loads(process.stdout.readline())


def _children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(word) for word in (task / "children").read_text().split()]
    return found


def test_a_guest_starts_on_a_served_point_and_writes(tmp_path: Path) -> None:
    """It mounts its file system from the store and writes on; the point stays as it was."""
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


def test_a_folder_spares_the_store_and_holds_nothing_in_clear(own_archive: Archive, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    with own_archive.serve("vda", cache_dir=str(folder)) as server:
        assert read(server.uri(), 30 * MIB, 8 * MIB) == CONTENT[30 * MIB : 38 * MIB]
        assert read(server.uri(), 66 * MIB, 100) == CONTENT[66 * MIB : 66 * MIB + 100]
    files = [path for path in folder.iterdir() if path.is_file()]
    assert len(files) >= 8 * MIB // CHUNK
    assert folder.stat().st_mode & 0o77 == 0
    clear = [CONTENT[at : at + 64] for at in range(30 * MIB, 38 * MIB, CHUNK)]
    assert not any(piece in path.read_bytes() for path in files for piece in clear)
    # What lies there comes from there: the store's copy is damaged by now.
    for path in data_packs(Path(own_archive.url)):
        content = path.read_bytes()
        if len(content) > MIB:
            path.chmod(0o600)
            path.write_bytes(bytes(len(content) - 200_000) + content[-200_000:])
    with own_archive.serve("vda", cache_dir=str(folder)) as server:
        assert read(server.uri(), 30 * MIB, 8 * MIB) == CONTENT[30 * MIB : 38 * MIB]
        with pytest.raises(NbdError):
            read(server.uri(), 50 * MIB, CHUNK)


def test_a_damaged_or_full_folder_harms_nothing(archive: Archive, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    with archive.serve("vda", cache_dir=str(folder)) as server:
        read(server.uri(), 30 * MIB, 4 * MIB)
    for path in folder.iterdir():
        path.write_bytes(bytes(path.stat().st_size))
    with archive.serve("vda", cache_dir=str(folder)) as server:
        assert read(server.uri(), 30 * MIB, 4 * MIB) == CONTENT[30 * MIB : 34 * MIB]
    with archive.serve("vda", cache_dir=str(folder), cache_size=MIB) as server:
        assert read(server.uri(), 50 * MIB, 8 * MIB) == CONTENT[50 * MIB : 58 * MIB]
    assert 0 < sum(path.stat().st_size for path in folder.iterdir()) <= MIB
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="for the cache"):
        archive.serve("vda", cache_dir=str(tmp_path / "file"))
