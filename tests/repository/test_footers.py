"""Footers as a run reads them: each once, as stored now, and within bounds."""

from __future__ import annotations

import random
import threading

import pytest

from benchmarks.counting import CountingStore
from puller.errors import DamagedData, MissingObject
from puller.repository import repository as repositories
from puller.repository.collecting.compaction import compact
from puller.repository.format.chunk_slot import content_id
from puller.repository.format.packname import PackKind
from puller.repository.reading import footers as module
from puller.repository.reading.footers import Footers
from puller.repository.reading.packs import PackReader
from puller.repository.repository import Repository
from puller.units import CHUNK
from tests.lab.feed import store_disk
from tests.lab.memory import MemoryStore


@pytest.fixture
def store() -> CountingStore:
    return CountingStore(MemoryStore())


@pytest.fixture
def repository(store: CountingStore) -> Repository:
    return repositories.create(store, None)


def noise(seed: int, chunks: int) -> bytes:
    return random.Random(seed).randbytes(chunks * CHUNK)


def pack_ids(repository: Repository, kind: PackKind = PackKind.DATA) -> list[bytes]:
    return [bytes.fromhex(info.key[-32:]) for info in repository.store.list(kind.prefix)]


def test_ids_stand_where_the_contents_do(repository: Repository) -> None:
    content = noise(1, 5)
    store_disk(repository, content)
    (pack,) = pack_ids(repository)
    ids = Footers(repository.packs).ids(PackKind.DATA, pack)
    chunks = [content[at : at + CHUNK] for at in range(0, len(content), CHUNK)]
    assert sorted(map(bytes, ids)) == sorted(content_id(repository.keys.id_key, chunk) for chunk in chunks)


def test_a_dead_slot_has_no_id_though_a_reader_knew_it_alive(repository: Repository) -> None:
    store_disk(repository, noise(1, 5))
    (pack,) = pack_ids(repository)
    known = repository.packs.open(PackKind.DATA, pack)
    compact(repository.store, repository.keys, PackReader(repository.store, repository.keys), known, 0b10)
    repository.store.delete([known.name])
    ids = Footers(repository.packs).ids(PackKind.DATA, pack)
    assert [bool(row.any()) for row in ids] == [True, False, True, True, True]


def test_a_pack_is_of_one_kind(repository: Repository) -> None:
    store_disk(repository, noise(1, 5))
    (pack,) = pack_ids(repository, PackKind.MAP)
    footers = Footers(repository.packs)
    assert len(footers.ids(PackKind.MAP, pack)) > 0
    with pytest.raises(MissingObject):
        footers.ids(PackKind.DATA, pack)


def test_many_threads_read_a_footer_once(repository: Repository, store: CountingStore) -> None:
    store_disk(repository, noise(1, 5))
    (pack,) = pack_ids(repository)
    footers = Footers(repository.packs)
    store.reset()
    threads = [threading.Thread(target=footers.ids, args=(PackKind.DATA, pack)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.reads("packs/") == 1


def test_the_least_used_ids_are_dropped(
    repository: Repository, store: CountingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(3):
        store_disk(repository, noise(seed, 4))
    first, second, third = pack_ids(repository)
    monkeypatch.setattr(module, "CACHED", 2 * 4 * 16)
    footers = Footers(repository.packs)
    store.reset()
    for pack in (first, second, first, third, first, second):
        footers.ids(PackKind.DATA, pack)
    assert store.reads("packs/") == 4


def test_a_damaged_pack_is_known_as_such_afterwards_and_a_missing_one_is_not(repository: Repository) -> None:
    store_disk(repository, noise(1, 4))
    (pack,) = pack_ids(repository)
    name = PackKind.DATA.object_name(pack)
    footers = Footers(repository.packs)
    with pytest.raises(MissingObject):
        footers.ids(PackKind.DATA, bytes(16))
    *content, last = repository.store.get(name)
    repository.store.put(name, bytes((*content, last ^ 1)))
    with pytest.raises(DamagedData):
        footers.ids(PackKind.DATA, pack)
    assert repository.packs.damaged == {pack}
