"""A pack rewritten without its dead slots."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puller.errors import DamagedData, ObjectChanged, ObjectExists
from puller.repository import repository as repositories
from puller.repository.collecting.compaction import compact, compacted, present, without
from puller.repository.format.bits import bits_of
from puller.repository.format.footer import DEAD, Footer
from puller.repository.format.index import IndexedPack
from puller.repository.format.packname import ID, PackKind
from puller.repository.keys.key_slots import Password
from puller.repository.keys.keyring import NO_KEY_BOX
from puller.repository.reading.packs import MERGE_GAP, PackReader, StoredPack
from puller.repository.repository import Repository
from puller.units import CHUNK
from tests.lab.feed import store_disk
from tests.lab.history import pack_id_of
from tests.lab.memory import MemoryStore

COUNT = 40


@pytest.fixture(params=[None, "correct horse"], ids=["plain", "encrypted"])
def repository(request: pytest.FixtureRequest) -> Repository:
    secret = None if request.param is None else Password(request.param)
    return repositories.create(MemoryStore(), secret)


def _pack(repository: Repository) -> tuple[PackReader, StoredPack]:
    store_disk(repository, random.Random(1).randbytes(COUNT * CHUNK))
    [info] = repository.store.list("packs/")
    reader = PackReader(repository.store, repository.keys)
    return reader, reader.open(PackKind.DATA, pack_id_of(info.key))


@pytest.mark.parametrize("dead", [{0}, {39}, {*range(3, 30)}, {*range(0, 40, 2)}, {*range(1, 40)}])
def test_what_is_left_reads_as_before(repository: Repository, dead: set[int]) -> None:
    reader, pack = _pack(repository)
    live = [slot for slot in range(COUNT) if slot not in dead]
    before = reader.read(PackKind.DATA, pack.pack_id, live)
    freed = compact(repository.store, repository.keys, reader, pack, sum(1 << slot for slot in dead))
    assert freed >= len(dead) * CHUNK
    both = PackReader(repository.store, repository.keys)
    assert both.read(PackKind.DATA, pack.pack_id, live) == before, "as long as both generations are there"
    repository.store.delete([pack.name])
    fresh = PackReader(repository.store, repository.keys)
    for some in (reader, fresh):
        assert some.read(PackKind.DATA, pack.pack_id, live) == before
        with pytest.raises(DamagedData, match="removed by prune"):
            some.read(PackKind.DATA, pack.pack_id, [min(dead)])
    after = fresh.open(PackKind.DATA, pack.pack_id)
    assert after.size == pack.size - freed
    assert present(after.footer) == sum(1 << slot for slot in live)
    known = compacted(
        repository.keys,
        IndexedPack(pack.kind, pack.pack_id, pack.size, pack.footer),
        sum(1 << slot for slot in dead),
    )
    assert (known.size, known.footer.encode()) == (after.size, after.footer.encode())


def test_a_reader_that_knows_the_old_footer_finds_the_slots(repository: Repository) -> None:
    _, pack = _pack(repository)
    slow = PackReader(repository.store, repository.keys)
    slow.open(PackKind.DATA, pack.pack_id)
    expected = slow.read(PackKind.DATA, pack.pack_id, [20])
    reader = PackReader(repository.store, repository.keys)
    compact(repository.store, repository.keys, reader, reader.open(PackKind.DATA, pack.pack_id), 0xFFFF)
    repository.store.delete([pack.name])
    assert slow.read(PackKind.DATA, pack.pack_id, [20]) == expected


def test_a_pack_that_is_gone_is_left_alone(repository: Repository) -> None:
    reader, pack = _pack(repository)
    repository.store.delete([pack.name])
    with pytest.raises(ObjectChanged):
        compact(repository.store, repository.keys, reader, pack, 0b1)
    assert list(repository.store.list("packs/")) == []


def test_of_two_that_compact_a_pack_the_second_one_changes_nothing(repository: Repository) -> None:
    reader, pack = _pack(repository)
    compact(repository.store, repository.keys, reader, pack, 0b1)
    name = f"{pack.name}.1"
    first = repository.store.get(name)
    with pytest.raises(ObjectExists):
        compact(repository.store, repository.keys, reader, pack, 0b11)
    assert repository.store.get(name) == first


def test_only_what_is_live_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    repository = repositories.create(MemoryStore(), None)
    reader, pack = _pack(repository)
    fetched: list[int] = []
    get_ranges = repository.store.get_ranges

    def count(key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        fetched.extend(length for _, length in ranges)
        return get_ranges(key, ranges)

    monkeypatch.setattr(repository.store, "get_ranges", count)
    compact(repository.store, repository.keys, reader, pack, (1 << 36) - 1 - 0b1001)
    assert fetched
    assert sum(fetched) <= 6 * CHUNK + 2 * MERGE_GAP


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(1, 9), st.booleans(), st.booleans()), max_size=30))
def test_footers_without_dead_slots(rows: list[tuple[int, bool, bool]]) -> None:
    """Each row: length, dead before, to be removed."""
    count = len(rows)
    ids = np.ones((count, ID), np.uint8)
    old = np.array([dead for _, dead, _ in rows], np.bool_)
    gone = np.array([dead for *_, dead in rows], np.bool_)
    lengths = np.array([0 if dead else length for length, dead, _ in rows], np.uint32)
    footer = Footer(NO_KEY_BOX, ids, lengths, np.where(old, DEAD, 1).astype(np.uint8))
    after = without(footer, bits_of(gone))
    left = ~old & ~gone
    assert present(after) == bits_of(left)
    assert after.lengths.tolist() == np.where(left, lengths, 0).tolist()
    assert np.array_equal(after.ids[~gone], ids[~gone])
    assert not after.ids[gone].any()
    assert (footer.lengths == lengths).all(), "the old footer stays as it is"
