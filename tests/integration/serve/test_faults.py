"""What clients see of damage and outages, and what may stop a server from starting."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

import puller
from puller.errors import NbdError, ServeFailed, UsageError
from puller.events import Event, Notice
from puller.nbd.connection import Connection
from puller.units import CHUNK, MIB
from tests.integration.serve.archive import CONTENT, SIZE, SMALL, Archive, make_archive, read, until
from tests.lab.archive import data_packs
from tests.lab.seaweed import Seaweed


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
    archive = make_archive("s3://served/repository")
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
