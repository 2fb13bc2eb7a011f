"""The files that a host keeps of the index, and what happens if they are damaged."""

from __future__ import annotations

import os
import random
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from blake3 import blake3

from puller.host.folders import cache_directory
from puller.repository.index.hints import HintFile
from tests.repository.index.world import REPOSITORY, files, folder, ids_in, open_files, some_objects


def test_what_dead_processes_left_is_swept() -> None:
    world = some_objects()
    world.open()
    for name, age in (("old.new", 90000), ("young.new", 0)):
        (folder() / name).write_bytes(b"of a process that was killed")
        os.utime(folder() / name, (time.time() - age,) * 2)
    world.objects["index/more"] = [(10, 0)]
    world.levels[10] = 0
    world.open().check()
    assert files() == ["main", "newer", "young.new"]


def _truncate() -> None:
    os.truncate(folder() / "main", (folder() / "main").stat().st_size // 2)


def _empty() -> None:
    os.truncate(folder() / "main", 0)


def _remove() -> None:
    (folder() / "main").unlink()


def _swap() -> None:
    (folder() / "main").write_bytes((folder() / "newer").read_bytes())


def _spoil_tail() -> None:
    content = bytearray((folder() / "main").read_bytes())
    content[-100] ^= 1
    (folder() / "main").write_bytes(content)


def _spoil_length() -> None:
    content = (folder() / "main").read_bytes()
    (folder() / "main").write_bytes(content[:-8] + b"\xff" * 8)


def _of_another_version() -> None:
    content = msgspec.msgpack.encode({"by": "another version"})
    end = blake3(content).digest(16) + len(content).to_bytes(8, "little")
    (folder() / "main").write_bytes(content + end)


@pytest.mark.parametrize(
    "damage", [_truncate, _empty, _remove, _swap, _spoil_tail, _spoil_length, _of_another_version]
)
def test_a_damaged_cache_is_built_anew(damage: object) -> None:
    world = some_objects()
    world.open().check()
    world.objects["index/more"] = [(10, 0)]
    world.levels[10] = 0
    world.open().check()
    damage()  # type: ignore[operator]
    world.open().check()
    world.read_keys.clear()
    world.open().check()
    assert world.read_keys == []


def spoil_rows() -> None:
    """Zeros in place of rows, as a host leaves that lost power."""
    path = folder() / "main"
    file = HintFile(path, REPOSITORY)
    content = bytearray(path.read_bytes())
    content[17 * file.packs : 17 * file.packs + 8 * file.rows] = bytes(8 * file.rows)
    path.write_bytes(content)


def test_damaged_rows_give_no_wrong_address_and_are_healed_by_the_next_run() -> None:
    world = some_objects()
    world.open().check()
    spoil_rows()
    opened = world.open()
    assert opened.check_nothing_wrong() == 0
    opened.index.close()
    world.open().check()


@pytest.mark.parametrize("place", range(0, 40, 3))
def test_whatever_is_wrong_in_packs_or_rows_gives_no_wrong_address(place: int) -> None:
    world = some_objects()
    world.open().check()
    content = bytearray((folder() / "main").read_bytes())
    content[random.Random(place).randrange(17 * 10 + 8 * 1000)] ^= 1 << place % 8
    (folder() / "main").write_bytes(content)
    world.open().check_nothing_wrong()


@pytest.mark.parametrize("spoilt", [bytes(8), b"\xff" * 8], ids=["lost", "impossible"])
@pytest.mark.parametrize("row", [0, 77, 524])
def test_rows_that_are_damaged_before_they_are_copied_are_built_anew(row: int, spoilt: bytes) -> None:
    world = some_objects()
    world.open()
    path = folder() / "main"
    content = bytearray(path.read_bytes())
    at = 17 * HintFile(path, REPOSITORY).packs + 8 * row
    content[at : at + 8] = spoilt
    path.write_bytes(content)
    for name in ("index/1", "index/2"):  # so much that the file is made anew
        del world.objects[name]
    world.open().check()
    world.read_keys.clear()
    world.open().check()
    assert world.read_keys == []


def _a_file(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_text("in the way")


def _writable_for_others(path: Path) -> None:
    path.mkdir(parents=True)
    path.chmod(0o777)


def _exchangeable(path: Path) -> None:
    path.mkdir(parents=True, mode=0o700)
    path.parent.chmod(0o777)


@pytest.mark.parametrize("spoil", [_a_file, _writable_for_others, _exchangeable])
def test_a_cache_that_cannot_be_used_is_done_without(spoil: object) -> None:
    spoil(folder())  # type: ignore[operator]
    world = some_objects()
    for _ in range(2):
        opened = world.open()
        opened.check()
        opened.index.close()
    assert not list(folder().parent.parent.glob("puller-index-*"))
    assert not folder().is_dir() or files() == []


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Writing beyond ``size`` bytes of any file fails, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_without_room_for_an_index_nothing_is_held() -> None:
    world = some_objects()
    with file_size_limit(1000):
        opened = world.open()
    assert opened.check_nothing_wrong() == 0
    opened.add(ids_in(0)[0], b"a pack of mine..", 1)
    assert opened.find([ids_in(0)[0]]) == [(b"a pack of mine..", 1)]
    assert files() == []
    world.open().check()


def test_folders_follow_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PULLER_CACHE_DIR")
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache_directory("ab") == Path("/caches/puller/ab")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
    assert cache_directory("ab") == Path("/home/ada/.cache/puller/ab")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert cache_directory("ab") == Path("/var/cache/puller/ab")


def test_the_cache_is_nobody_elses_business() -> None:
    some_objects().open()
    assert folder().stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o077 for path in folder().iterdir()} == {0}


def test_files_are_closed() -> None:
    world = some_objects()
    world.open().index.close()
    before = open_files()
    for number in range(3):
        world.objects[f"index/more {number}"] = [(0, 0), (1, 1)]
        opened = world.open()
        opened.check()
        opened.index.close()
        del opened
    assert open_files() == before
