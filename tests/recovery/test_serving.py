"""The parts of a server that need no nbdkit: its cache, its read-ahead, and what it does about the store."""

from __future__ import annotations

import random
import subprocess
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import cast

import pytest

import puller
from puller.cancelling import CancelScope, RetryPolicy
from puller.errors import DamagedData, StoreError
from puller.recovery.serving import fetching, hold
from puller.recovery.serving.chunks import ChunkCache, Claim, Place
from puller.recovery.serving.disk import ServedDisk
from puller.recovery.serving.exports import Exports
from puller.recovery.serving.fetching import Fetcher
from puller.recovery.serving.opening import open_session, opened_form
from puller.recovery.serving.overlay import OverlaidDisk
from puller.recovery.serving.sequences import AHEAD, DENSE, SEGMENT, Sequences
from puller.recovery.serving.session import Session, decode_session, encode
from puller.repository.format.pages import PackTable
from puller.repository.reading.damage import Damage
from puller.repository.reading.image import DiskImage, PackJob
from puller.store.base import Body
from puller.store.directory.folder import FolderStore
from puller.units import CHUNK, MIB
from tests.lab.archive import make_point

CONTENT = random.Random(9).randbytes(9 * MIB + 700)
IMPATIENT = RetryPolicy(0.5, limit=0.5)


def _places(count: int) -> list[Place]:
    return [Place(1, slot, CHUNK) for slot in range(count)]


def test_the_cache_holds_no_more_than_its_capacity() -> None:
    cache = ChunkCache(3 * CHUNK)
    for place in _places(5):
        assert list(cache.claim([place]).mine) == [place]
        cache.deliver({place: bytes(CHUNK)})
    claim = cache.claim(_places(5))
    assert list(claim.found) == _places(5)[2:]
    assert list(claim.mine) == _places(5)[:2]


def test_a_chunk_that_is_being_fetched_is_awaited() -> None:
    cache = ChunkCache(3 * CHUNK)
    (place,) = _places(1)
    first, second = cache.claim([place]), cache.claim([place, place])
    assert list(first.mine) == [place]
    assert not second.mine
    cache.deliver({place: b"x" * CHUNK})
    assert second.awaited[place].result(0) == b"x" * CHUNK


def test_who_waits_hears_of_a_failure_and_the_next_one_tries_again() -> None:
    cache = ChunkCache(3 * CHUNK)
    place, other = _places(2)
    cache.claim([place, other])
    waiting = cache.claim([place])
    cache.deliver({other: bytes(CHUNK)})
    cache.abandon([place, other], StoreError("gone"))
    with pytest.raises(StoreError):
        waiting.awaited[place].result(0)
    again = cache.claim([place, other])
    assert list(again.mine) == [place]
    assert list(again.found) == [other]


def test_damage_is_not_kept() -> None:
    cache = ChunkCache(3 * CHUNK)
    (place,) = _places(1)
    claim = cache.claim([place])
    cache.deliver({place: Damage(0, CHUNK, "lost")})
    assert claim.mine[place].result(0) == Damage(0, CHUNK, "lost")
    assert list(cache.claim([place]).mine) == [place]


def test_what_comes_late_is_welcome() -> None:
    """A request that failed abandons what its other threads still bring, and a second one has claimed it."""
    cache = ChunkCache(2 * CHUNK)
    (place,) = _places(1)
    cache.claim([place])
    cache.abandon([place], StoreError("gone"))
    cache.deliver({place: b"x" * CHUNK})
    assert list(cache.claim([place]).found) == [place]
    for _ in range(3):
        cache.deliver({place: b"x" * CHUNK})
    assert list(cache.claim([place]).found) == [place]


class _Stuck:
    """An image that does not answer until ``free`` is set, and then fails like a cancelled one."""

    def __init__(self) -> None:
        self.scope = CancelScope(IMPATIENT)
        self.free = threading.Event()

    def within(self, scope: CancelScope) -> _Stuck:
        return self

    def read(self, job: PackJob) -> list[tuple[int, bytes] | Damage]:
        self.free.wait(60)
        raise StoreError("cancelled")


def test_who_waits_for_the_queue_hears_of_the_end() -> None:
    image, cache = _Stuck(), ChunkCache(64 * MIB)
    table = PackTable()
    number = table.number(b"pack")
    fetcher = Fetcher(cache, table, image.scope)
    waiting = []
    for slot in range(fetching._CREW + fetching._WAITING):  # one more would wait for the end of a read
        place = Place(number, slot, CHUNK)
        waiting.append(cache.claim([place]).mine[place])
        while not fetcher.ahead(cast(DiskImage, image), {place: slot}):
            image.free.wait(0.01)
    image.scope.cancel()
    image.free.set()
    assert all(future.exception(30) is not None for future in waiting)


def _none(segment: int) -> bool:
    return False


def test_a_reader_that_skips_holes_is_read_ahead_of() -> None:
    sequences = Sequences(100 * SEGMENT, 128 * MIB, lambda segment: bool(segment % 2))
    found = [sequences.touch(at * SEGMENT, (at + 1) * SEGMENT) for at in (0, 2, 4)]
    assert found == [[0], [2, 4, 6, 8], [10]]


def test_no_more_is_read_ahead_than_the_cache_holds() -> None:
    sequences = Sequences(1000 * SEGMENT, 8 * SEGMENT * CHUNK, _none)
    for start in (0, 100, 200, 300):
        sequences.touch(start * SEGMENT, (start + 1) * SEGMENT)
    begun = [len(sequences.touch((at + 1) * SEGMENT, (at + 1) * SEGMENT + 4)) for at in (0, 100, 200, 300)]
    assert begun == [1 + AHEAD, 3, 1, 1]


def test_single_reads_fetch_nothing_more() -> None:
    sequences = Sequences(100 * SEGMENT, 64 * MIB, _none)
    assert [sequences.touch(at * SEGMENT + 5, at * SEGMENT + 6) for at in range(0, 100, 2)] == [[]] * 50


def test_a_sequential_reader_is_read_ahead_of() -> None:
    sequences = Sequences(100 * SEGMENT, 64 * MIB, _none)
    found = [sequences.touch(chunk, chunk + 1) for chunk in range(3 * SEGMENT)]
    assert found[DENSE - 1] == [0]
    assert found[SEGMENT] == list(range(1, 2 + AHEAD))
    assert found[2 * SEGMENT] == [2 + AHEAD]
    every = [segment for segments in found for segment in segments]
    assert every == list(range(3 + AHEAD))


def test_the_last_segment_ends_with_the_disk() -> None:
    sequences = Sequences(SEGMENT + 3, 64 * MIB, _none)
    for chunk in range(SEGMENT + 3):
        segments = sequences.touch(chunk, chunk + 1)
        assert all(segment < 2 for segment in segments)
    assert sequences.chunks_of(1) == (SEGMENT, SEGMENT + 3)


def test_what_cannot_be_in_the_cache_any_more_is_fetched_again() -> None:
    sequences = Sequences(100 * SEGMENT, 2 * SEGMENT * CHUNK, _none)
    assert sequences.touch(0, SEGMENT) == [0]
    assert sequences.touch(10 * SEGMENT, 11 * SEGMENT) == [10]
    assert sequences.touch(0, SEGMENT) == []
    assert sequences.touch(20 * SEGMENT, 21 * SEGMENT) == [20]
    assert sequences.touch(10 * SEGMENT, 11 * SEGMENT) == [10]


class Served:
    def __init__(self, folder: Path, content: bytes = CONTENT) -> None:
        self.folder = folder / "repository"
        repository = puller.create_repository(str(self.folder), password="secret")
        self.point = make_point(repository, {"vda": content})
        self.told: list[str] = []
        session = Session(
            str(self.folder), "web1@latest", 16 * MIB, opened=opened_form(repository, self.point)
        )
        self.exports = Exports(decode_session(encode(session)), self.told.append, IMPATIENT)
        self.exports.begin()
        (disk,) = self.exports.disks
        assert isinstance(disk, ServedDisk)
        self.disk = disk

    def read(self, offset: int, length: int) -> bytes:
        buffer = bytearray(length)
        self.exports.read(self.disk, memoryview(buffer), offset)
        return bytes(buffer)


def test_the_options_of_the_store_reach_the_process_that_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = puller.StoreOptions(sse="aws:kms", kms_key="alias/backups", connections=3)
    session = Session("s3://bucket/prefix", "web1@latest", 16 * MIB, options=options)
    opened: list[object] = []

    def open_noted(url: str, options: puller.StoreOptions) -> FolderStore:
        opened.append(options)
        return FolderStore(tmp_path / "absent")

    monkeypatch.setattr("puller.recovery.serving.opening.open_store", open_noted)
    with pytest.raises(puller.PullerError):
        open_session(decode_session(encode(session)), CancelScope(), print)
    assert opened == [options]


@pytest.fixture
def served(tmp_path: Path) -> Served:
    return Served(tmp_path)


def test_a_store_that_stays_away_is_an_error_and_never_wrong_data(served: Served) -> None:
    assert served.read(0, 10) == CONTENT[:10]
    away = served.folder.rename(served.folder.with_name("away"))
    for _ in range(2):
        with pytest.raises((StoreError, DamagedData)):
            served.read(5 * MIB, MIB)
    assert served.read(0, 10) == CONTENT[:10]
    away.rename(served.folder)
    assert served.read(5 * MIB, MIB) == CONTENT[5 * MIB : 6 * MIB]
    assert served.read(len(CONTENT) - 9, 9) == CONTENT[-9:]


def test_what_another_thread_asked_for_too_early_is_asked_for_again(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It asked before the store came back; its answer comes late, to a reader who waits for it."""
    places = served.disk._places(0, 1)
    early, cache = served.disk._cache.claim(places.values()), served.disk._cache
    claim = cache.claim

    def claim_and_miss(wanted: Iterable[Place]) -> Claim:
        claimed = claim(wanted)
        late = {place: Damage(0, CHUNK, "is missing from the store") for place in early.mine}
        early.mine.clear()
        cache.deliver(late)
        return claimed

    monkeypatch.setattr(cache, "claim", claim_and_miss)
    assert served.read(0, CHUNK) == CONTENT[:CHUNK]


def test_the_protection_that_is_being_put_at_the_end_does_not_stay(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store carries out what was asked of it, also for who does not wait for its answer."""
    put = FolderStore.put_new
    under_way, go_on, landed = threading.Event(), threading.Event(), threading.Event()

    def slow_put(store: FolderStore, key: str, body: Body) -> None:
        under_way.set()
        go_on.wait(60)
        put(store, key, body)
        landed.set()

    monkeypatch.setattr(FolderStore, "put_new", slow_put)
    monkeypatch.setattr(hold, "_GRACE", 60.0)
    monkeypatch.setattr(served.exports._hold._scope, "policy", RetryPolicy(60.0, limit=60.0))
    renewing = threading.Thread(target=served.exports._hold._renew)
    renewing.start()
    assert under_way.wait(60)
    threading.Timer(1.5, go_on.set).start()
    served.exports.end()
    assert landed.wait(60)
    renewing.join()
    repository = puller.open_repository(str(served.folder), password="secret")
    assert repository.keeps.listed() == []


def test_threads_that_read_the_same_ask_the_store_once(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.read(0, 1)
    asked: list[tuple[str, int, int]] = []
    original = FolderStore.get_ranges
    gate = threading.Barrier(4)

    def get_ranges(store: FolderStore, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        asked.extend((key, *each) for each in ranges)
        return original(store, key, ranges)

    monkeypatch.setattr(FolderStore, "get_ranges", get_ranges)

    def work() -> None:
        gate.wait()
        assert served.read(3 * MIB, CHUNK) == CONTENT[3 * MIB : 3 * MIB + CHUNK]

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(asked) == len(set(asked)) == 1


def test_an_overlay_has_what_was_written_and_the_rest_of_the_disk(served: Served) -> None:
    chance = random.Random(11)
    truth = bytearray(CONTENT)
    disk = OverlaidDisk(served.disk)
    for _ in range(300):
        offset = chance.randrange(len(truth))
        length = min(chance.choice([1, 511, CHUNK, 3 * CHUNK + 5]), len(truth) - offset)
        if chance.random() < 0.3:
            disk.zero(offset, length)
            truth[offset : offset + length] = bytes(length)
        elif chance.random() < 0.6:
            content = chance.randbytes(length)
            disk.write(memoryview(content), offset)
            truth[offset : offset + length] = content
        buffer = bytearray(length)
        disk.read_into(memoryview(buffer), offset)
        assert buffer == truth[offset : offset + length]
    whole = bytearray(len(truth))
    disk.read_into(memoryview(whole), 0)
    assert whole == truth
    for run in disk.runs(0, len(truth)):
        assert run.stored or not any(truth[run.offset : run.offset + run.length])
    assert served.read(0, len(CONTENT)) == CONTENT


def test_an_overlay_on_a_full_file_system_says_so(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel writes the part of a chunk for which there is room, and calls that a success."""
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        monkeypatch.setenv("TMPDIR", str(small))
        disk = OverlaidDisk(served.disk)
        for chunk in range(3):
            disk.write(memoryview(b"x" * CHUNK), chunk * CHUNK)
        for offset, length in ((3 * CHUNK, CHUNK), (3 * CHUNK + 1, 512), (4 * CHUNK, CHUNK)):
            with pytest.raises(OSError, match="No space left"):
                disk.write(memoryview(b"y" * length), offset)
        buffer = bytearray(2 * CHUNK)
        disk.read_into(memoryview(buffer), 3 * CHUNK)
        assert buffer == CONTENT[3 * CHUNK : 5 * CHUNK]
        disk.zero(3 * CHUNK, CHUNK)
        disk.read_into(memoryview(buffer), 3 * CHUNK)
        assert buffer == bytes(CHUNK) + CONTENT[4 * CHUNK : 5 * CHUNK]
    finally:
        subprocess.run(["umount", "--lazy", str(small)], check=True)


def test_damage_is_named_where_the_reader_met_it(tmp_path: Path) -> None:
    """Two places of a disk have one chunk in common."""
    served = Served(tmp_path, CONTENT[:CHUNK] * 9)
    pack = max((served.folder / "packs").glob("*/*"), key=lambda path: path.stat().st_size)
    stored = bytearray(pack.read_bytes())
    stored[1000] ^= 1
    pack.write_bytes(stored)
    for chunk in (2, 7):
        with pytest.raises(DamagedData, match=f"from byte {chunk * CHUNK} to {(chunk + 1) * CHUNK - 1}:"):
            served.read(chunk * CHUNK, 2 * CHUNK)


def test_two_writes_to_one_chunk_at_once_lose_nothing(served: Served) -> None:
    disk = OverlaidDisk(served.disk)
    gate = threading.Barrier(8)

    def work(number: int) -> None:
        gate.wait()
        for chunk in range(20):
            disk.write(memoryview(bytes([number]) * 512), chunk * CHUNK + number * 512)

    threads = [threading.Thread(target=work, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for chunk in range(20):
        buffer = bytearray(CHUNK)
        disk.read_into(memoryview(buffer), chunk * CHUNK)
        assert buffer[: 8 * 512] == b"".join(bytes([number]) * 512 for number in range(8))
        assert buffer[8 * 512 :] == CONTENT[chunk * CHUNK + 8 * 512 : (chunk + 1) * CHUNK]
