"""Disks stored by runs and read back: exact, incremental, shared, small."""

from __future__ import annotations

import random
import threading
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from puller.cancelling import WORK, CancelScope
from puller.errors import (
    DamagedData,
    Interrupted,
    MissingObject,
    RepositoryExists,
    StoreUnavailable,
    WrongKey,
)
from puller.repository import repository as repositories
from puller.repository.format.packname import PackKind
from puller.repository.keys.key_slots import KeyFile, Password
from puller.repository.reading.damage import Damage
from puller.repository.reading.image import DiskImage
from puller.repository.repository import Repository
from puller.repository.writing.run import LEAST_MEMORY, MOST_UPLOADS, Tuning, pack_size, upload_law
from puller.store.base import Body
from puller.store.options import StoreOptions
from puller.units import CHUNK, KIB, MIB, PAGE_CHUNKS, Extent, Kind
from tests.lab.archive import make_point
from tests.lab.feed import SMALL, feed, read_disk, store_disk
from tests.lab.memory import MemoryStore

PAGE = PAGE_CHUNKS * CHUNK


@pytest.fixture(params=[None, Password("correct horse")], ids=["plain", "encrypted"])
def repository(request: pytest.FixtureRequest) -> Repository:
    return repositories.create(MemoryStore(), request.param)


def noise(seed: int, length: int) -> bytes:
    return random.Random(seed).randbytes(length)


def test_a_disk_of_odd_size_survives(repository: Repository) -> None:
    content = noise(1, 5 * CHUNK) + bytes(3 * CHUNK) + b"text" * 5000 + noise(2, 513)
    root, writer = store_disk(repository, content)
    assert read_disk(repository, root) == content
    assert writer.read_bytes == len(content)


def test_disks_of_nothing(repository: Repository) -> None:
    for content in (b"", bytes(10), bytes(3 * PAGE + 5)):
        root, writer = store_disk(repository, content)
        assert read_disk(repository, root) == content
        assert writer.new_bytes == 0


def test_incremental_touches_only_what_changed(repository: Repository) -> None:
    old = noise(1, 40 * CHUNK) + bytes(PAGE) + noise(2, 30 * CHUNK)
    base, _ = store_disk(repository, old)
    new = bytearray(old)
    new[5 * CHUNK : 7 * CHUNK] = noise(3, 2 * CHUNK)
    new[10 * CHUNK : 12 * CHUNK] = bytes(2 * CHUNK)
    new[PAGE + 40 * CHUNK : PAGE + 41 * CHUNK] = noise(4, CHUNK)
    extents = [
        Extent(5 * CHUNK, 2 * CHUNK, Kind.DATA),
        Extent(10 * CHUNK, 2 * CHUNK, Kind.ZERO),
        Extent(PAGE + 40 * CHUNK, CHUNK, Kind.DATA),
    ]
    root, writer = store_disk(repository, bytes(new), base, extents)
    assert read_disk(repository, root) == bytes(new)
    assert read_disk(repository, base) == old
    assert (writer.read_bytes, writer.zero_bytes, writer.new_bytes) == (3 * CHUNK, 2 * CHUNK, 3 * CHUNK)
    assert writer.stored_bytes < 3 * CHUNK + 4 * KIB


def test_nothing_changed_shares_the_root(repository: Repository) -> None:
    base, _ = store_disk(repository, noise(1, 3 * CHUNK))
    root, writer = store_disk(repository, noise(1, 3 * CHUNK), base, [])
    assert root == base
    assert writer.stored_bytes == 0


def test_a_copy_of_a_disk_is_stored_once(repository: Repository) -> None:
    content = noise(1, 20 * CHUNK)
    store_disk(repository, content)
    root, writer = store_disk(repository, content[: 10 * CHUNK] + content)
    assert writer.new_bytes == 0
    assert read_disk(repository, root) == content[: 10 * CHUNK] + content


@pytest.mark.parametrize("size", [3 * CHUNK + 100, PAGE + 10, 2 * PAGE, 9 * CHUNK, 0])
def test_resized_disk_stays_incremental(repository: Repository, size: int) -> None:
    old = noise(1, 9 * CHUNK + 512)
    base, _ = store_disk(repository, old)
    new = old[:size].ljust(size, b"\0")
    tail = len(old) // CHUNK * CHUNK
    extents = [Extent(tail, size - tail, Kind.DATA)] if size > len(old) else []
    root, _ = store_disk(repository, new, base, extents)
    assert read_disk(repository, root) == new


_EXTENTS = st.lists(
    st.tuples(st.integers(0, 2 * PAGE_CHUNKS + 2), st.integers(1, 700), st.sampled_from(list(Kind))),
    max_size=6,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(_EXTENTS, min_size=1, max_size=3), st.integers(1, CHUNK))
def test_generations_agree_with_a_naive_model(
    repository: Repository, generations: list[list[tuple[int, int, Kind]]], tail: int
) -> None:
    """Chunks are small repeated patterns, so that 130 MiB disks are cheap."""
    chunks = 2 * PAGE_CHUNKS + 3
    disk = bytearray((chunks - 1) * CHUNK + tail)
    base, states = None, []
    for number, extents in enumerate(generations):
        plan = _apply(disk, extents, number, chunks)
        base, _ = store_disk(repository, bytes(disk), base, plan)
        states.append((base, bytes(disk)))
    for root, expected in states:
        assert read_disk(repository, root) == expected


def _apply(disk: bytearray, extents: list[tuple[int, int, Kind]], seed: int, chunks: int) -> list[Extent]:
    """Change the disk; return ascending extents that do not overlap."""
    plan, reached = [], 0
    for first, count, kind in sorted(extents, key=lambda item: item[0]):
        start, stop = max(first, reached), min(first + count, chunks)
        if start >= stop:
            continue
        begin, end = start * CHUNK, min(stop * CHUNK, len(disk))
        for at in range(begin, end, CHUNK):
            stop_at = min(at + CHUNK, end)
            mark = b"" if kind is Kind.ZERO else f"{seed}/{at}".encode()
            disk[at:stop_at] = mark[: stop_at - at].ljust(stop_at - at, b"\0")
        plan.append(Extent(begin, end - begin, kind))
        reached = stop
    return plan


def test_many_packs_and_a_small_pool_do_not_deadlock(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("puller.repository.writing.run.DATA_PACK", 300 * KIB)
    content = noise(1, 100 * CHUNK)
    root, _ = store_disk(repository, content)
    assert read_disk(repository, root) == content
    assert sum(info.key.startswith("packs/") for info in repository.objects()) >= 20


@pytest.mark.parametrize("level", [1, 19, None])
def test_whatever_the_level_and_the_pace(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, level: int | None
) -> None:
    taken: list[int] = []
    monkeypatch.setattr("puller.pipeline.ratelimit.RateLimit.take", lambda _, count: taken.append(count))
    content = noise(1, 5 * CHUNK) + b"a text that compresses" * 20_000
    root, _ = store_disk(repository, content, tuning=replace(SMALL, level=level, upload_rate=1))
    assert read_disk(repository, root) == content
    stored = [info.size for info in repository.objects() if info.key.startswith(("packs/", "maps/"))]
    assert sorted(taken) == sorted(stored)


def test_a_failing_store_fails_the_run(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(key: str, body: object) -> None:
        raise StoreUnavailable("gone")

    monkeypatch.setattr("puller.repository.writing.run.DATA_PACK", 300 * KIB)
    monkeypatch.setattr(repository.store, "put_new", fail)
    with pytest.raises(StoreUnavailable):
        store_disk(repository, noise(1, 100 * CHUNK))


def test_a_failed_run_leaves_no_thread_and_its_packs_are_found_again(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("puller.repository.writing.run.DATA_PACK", 300 * KIB)
    content = noise(1, 60 * CHUNK)
    with pytest.raises(KeyboardInterrupt), repository.run(SMALL) as run:
        writer = run.disk(len(content), None)
        feed(run, writer, content, [Extent(0, len(content), Kind.DATA)])
        run.drain()
        raise KeyboardInterrupt
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("codec", "upload"))]
    _, writer = store_disk(repository, content)
    assert writer.new_bytes < len(content)


def _only_pack(repository: Repository) -> str:
    return next(info.key for info in repository.objects() if info.key.startswith("packs/"))


def _damage(repository: Repository, root: object) -> list[Damage]:
    image = DiskImage(repository.maps, repository.packs, root)  # type: ignore[arg-type]
    return [
        item
        for window in image.windows()
        for job in window.jobs
        for item in image.read(job)
        if isinstance(item, Damage)
    ]


def _reopened(repository: Repository) -> Repository:
    return Repository(repository.store, repository.descriptor, repository.keys)


def test_a_flipped_bit_hurts_its_chunk_only(repository: Repository) -> None:
    root, _ = store_disk(repository, noise(1, 50 * CHUNK))
    name = _only_pack(repository)
    pack = bytearray(repository.store.get(name))
    pack[10 * CHUNK + 300] ^= 4
    repository.store.put(name, bytes(pack))
    damage = _damage(_reopened(repository), root)
    assert len(damage) == 1
    assert damage[0].length == CHUNK
    assert name in damage[0].reason


@pytest.mark.parametrize("cut", [0, 20, 48, 3000])
def test_a_cut_or_missing_pack_is_damage_not_an_exception(repository: Repository, cut: int) -> None:
    root, _ = store_disk(repository, noise(1, 50 * CHUNK))
    name = _only_pack(repository)
    repository.store.put(name, repository.store.get(name)[:cut])
    assert len(_damage(_reopened(repository), root)) == 50
    repository.store.delete([name])
    assert len(_damage(_reopened(repository), root)) == 50


def test_swapped_packs_are_noticed(repository: Repository) -> None:
    first, _ = store_disk(repository, noise(1, 3 * CHUNK))
    one = _only_pack(repository)
    store_disk(repository, noise(2, 3 * CHUNK))
    two = next(info.key for info in repository.objects() if info.key.startswith("packs/") and info.key != one)
    repository.store.put(one, repository.store.get(two))
    assert len(_damage(_reopened(repository), first)) == 3


def test_a_missing_map_is_said_to_be_missing(repository: Repository) -> None:
    root, _ = store_disk(repository, noise(1, 3 * CHUNK))
    repository.store.delete([info.key for info in repository.objects() if info.key.startswith("maps/")])
    with pytest.raises(MissingObject):
        read_disk(_reopened(repository), root)


def test_opening() -> None:
    store = MemoryStore()
    made = repositories.create(store, Password("pw"))
    assert repositories.open_repository(store, Password("pw")).keys == made.keys
    for wrong in (Password("pW"), Password(""), KeyFile(b"pw" * 20), None):
        with pytest.raises(WrongKey):
            repositories.open_repository(store, wrong)
    with pytest.raises(RepositoryExists):
        repositories.create(store, Password("other"))


def test_nothing_of_the_guest_is_readable_in_an_encrypted_store() -> None:
    repository = repositories.create(MemoryStore(), Password("pw"))
    store_disk(repository, b"a secret of the guest " * 10000)
    for info in repository.objects():
        assert b"secret of the guest" not in repository.store.get(info.key)


def test_a_damaged_index_costs_space_and_nothing_else(repository: Repository) -> None:
    content = noise(1, 5 * CHUNK)
    store_disk(repository, content)
    for info in list(repository.objects()):
        if info.key.startswith("index/"):
            repository.store.put(info.key, b"garbage")
    root, writer = store_disk(_reopened(repository), content)
    assert writer.new_bytes == len(content)
    assert read_disk(repository, root) == content


def test_a_slot_that_is_not_there_is_damage(repository: Repository) -> None:
    root, _ = store_disk(repository, noise(1, CHUNK))
    with pytest.raises(DamagedData):
        repository.packs.read(PackKind.MAP, root.pack, [999])


def test_latest_never_silently_means_an_older_point(repository: Repository) -> None:
    first = make_point(repository, {"vda": noise(1, CHUNK)})
    second = make_point(repository, {"vda": noise(2, CHUNK)}, moment=first.time + timedelta(hours=1))
    name = f"points/{second.uuid}/{second.point}"
    repository.store.put(name, repository.store.get(name)[:-1])
    with pytest.raises(DamagedData) as refused:
        repository.points.select(f"{first.domain}@latest")
    assert first.point in refused.value.advice
    earlier = first.time + timedelta(minutes=5)
    assert repository.points.select(f"{first.domain}@{earlier.isoformat()}") == first


def test_a_cancelled_scope_stops_a_run_that_waits_for_its_rate() -> None:
    """As after a signal, where several domains are backed up at once: it arrives in another thread."""
    waiting = CancelScope(WORK)

    class Stopping(MemoryStore):
        def put_new(self, key: str, body: Body) -> None:
            super().put_new(key, body)
            if key.startswith("packs/"):
                waiting.cancel()

    store = Stopping()
    slow = replace(SMALL, upload_rate=16 * KIB)  # the second pack has to wait for 16 s
    repository = repositories.create(store, None).within(waiting)
    with pytest.raises(Interrupted):
        store_disk(repository, noise(1, 4 * CHUNK), tuning=slow)


@pytest.mark.parametrize(
    ("uploads", "size"), [(1, 32 * MIB), (2, 32 * MIB), (8, 9 * MIB), (9, 8 * MIB), (24, 8 * MIB)]
)
def test_more_uploads_have_smaller_packs(uploads: int, size: int) -> None:
    """Up to nine of them in the memory of three full packs."""
    assert 0 <= pack_size(uploads, 3) - size < MIB


@pytest.mark.parametrize(
    ("tuning", "round_trip", "limits"),
    [
        (Tuning(), 0.0, (2, 2, 8)),
        (Tuning(), 0.12, (2, 16, 19)),
        (Tuning(memory=1 << 30), 0.12, (2, 16, MOST_UPLOADS)),
        (Tuning(memory=LEAST_MEMORY), 0.12, (2, 6, 6)),
        (Tuning(memory=LEAST_MEMORY), 0.0, (2, 2, 6)),
        (Tuning(uploads=5), 0.12, (5, 5, 5)),
        (Tuning(uploads=64), 0.0, (19, 19, 19)),
    ],
    ids=["near", "far", "much memory", "little memory", "little memory, near", "fixed", "more than fit"],
)
def test_how_many_uploads_a_run_begins_with(
    tuning: Tuning, round_trip: float, limits: tuple[int, int, int]
) -> None:
    law = upload_law(tuning, round_trip)
    assert (law.least, law.limit, law.most) == limits


def test_the_option_of_the_store_fixes_the_uploads(repository: Repository) -> None:
    repository.store_options = StoreOptions(connections=3)
    with repository.run() as run:
        assert run.uploads_at_once == 3
    with repository.run(SMALL) as run:
        assert run.uploads_at_once == SMALL.uploads
