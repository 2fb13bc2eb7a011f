"""Contents that a run itself writes, and contents whose packs or index are gone."""

from __future__ import annotations

import random

import numpy as np
import pytest

from puller.errors import DamagedData, StoreUnavailable
from puller.repository import repository as repositories
from puller.repository.format.footer import Ids
from puller.repository.format.packname import PackKind
from puller.repository.repository import Repository
from puller.repository.writing import chunkindex
from puller.units import CHUNK
from tests.lab.feed import SMALL, store_disk
from tests.lab.memory import MemoryStore
from tests.repository.index.world import Opened, World, id_of, open_files


def written(count: int) -> tuple[Opened, list[bytes]]:
    """An index whose run has written ``count`` contents, in packs of a hundred; and the contents."""
    world = World({})
    opened = world.open()
    keys = [random.Random(number).randbytes(16) for number in range(count)]

    def load(kind: PackKind, pack_id: bytes) -> Ids:
        first = 100 * int.from_bytes(pack_id, "big")
        return np.frombuffer(b"".join(keys[first : first + 100]), np.uint8).reshape(-1, 16)

    world.ids = load  # type: ignore[method-assign]
    for number, key in enumerate(keys):
        opened.add(key, id_of(number // 100), number % 100)
    return opened, keys


def test_contents_of_the_run_are_found_through_its_packs_once_they_are_many() -> None:
    """Some thousand contents in packs of a hundred, of which the dictionary holds four."""
    opened, keys = written(3000)
    for at in range(0, len(keys), 30):
        assert opened.find(keys[at : at + 30]) == [
            (id_of(number // 100), number % 100) for number in range(at, at + 30)
        ]


def test_hints_to_what_the_run_has_written_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunkindex, "OWN", 300)
    opened, keys = written(5000)
    assert len(opened.index._own) <= 300
    found = [place for at in range(0, 4500, 30) for place in opened.find(keys[at : at + 30])]
    assert sum(place is not None for place in found) > 3000


@pytest.fixture
def repository() -> Repository:
    return repositories.create(MemoryStore(), None)


def noise(seed: int, chunks: int) -> bytes:
    return random.Random(seed).randbytes(chunks * CHUNK)


def index_keys(repository: Repository) -> list[str]:
    return [info.key for info in repository.store.list("index/")]


def test_contents_whose_index_vanished_are_stored_again(repository: Repository) -> None:
    store_disk(repository, noise(1, 5))
    repository.store.delete(index_keys(repository))
    _, writer = store_disk(repository, noise(1, 5) + noise(2, 5))
    assert writer.new_bytes == 10 * CHUNK


def test_contents_of_excluded_packs_are_stored_again(repository: Repository) -> None:
    store_disk(repository, noise(1, 5))
    packs = {pack.pack_id for pack in repository.indexed() if pack.kind is PackKind.DATA}
    index = repository.run(SMALL, excluded=packs)._index
    for pack in repository.indexed():
        ids = [key.tobytes() for key in repository.packs.open(pack.kind, pack.pack_id).footer.ids]
        assert (index.find(pack.kind, ids)[0] >= 0).all() == (pack.kind is PackKind.MAP)


def test_contents_of_a_pack_that_is_missing_or_damaged_are_stored_again(repository: Repository) -> None:
    store_disk(repository, noise(1, 5))
    store_disk(repository, noise(2, 5))
    first, second = [info.key for info in repository.store.list("packs/")]
    repository.store.delete([first])
    repository.store.put(second, repository.store.get(second)[:-1])
    _, writer = store_disk(repository, noise(1, 5) + noise(2, 5))
    assert writer.new_bytes == 10 * CHUNK


def test_a_chunk_that_a_batch_holds_twice_is_stored_once(repository: Repository) -> None:
    _, writer = store_disk(repository, noise(1, 1) * 3)
    assert writer.new_bytes == CHUNK


@pytest.mark.parametrize("call", ["get_range", "get_tail"])
def test_a_store_that_fails_while_the_index_is_read_fails_the_run(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def fail(*_: object, **__: object) -> bytes:
        raise StoreUnavailable("gone")

    store_disk(repository, noise(1, 5))
    monkeypatch.setattr(repository.store, call, fail)
    with pytest.raises(StoreUnavailable):
        store_disk(repository, noise(1, 5))
    monkeypatch.undo()


def test_an_index_is_closed_with_its_run(repository: Repository) -> None:
    store_disk(repository, noise(1, 5))
    before = open_files()
    store_disk(repository, noise(1, 5))
    assert open_files() <= before, "fewer, if something older was just collected"


def test_a_damaged_footer_is_noticed(repository: Repository) -> None:
    store_disk(repository, noise(1, 5))
    (name,) = [info.key for info in repository.store.list("packs/")]
    *content, last = repository.store.get(name)
    repository.store.put(name, bytes((*content, last ^ 1)))
    with pytest.raises(DamagedData):
        repository.packs.open(PackKind.DATA, bytes.fromhex(name[-32:]))
    _, writer = store_disk(repository, noise(1, 5))
    assert writer.new_bytes == 5 * CHUNK
