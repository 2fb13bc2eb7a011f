"""What reading maps asks of the store: few requests, however many pages and generations."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest

from puller.repository import repository as repositories
from puller.repository.collecting.reach import Reach
from puller.repository.format.address import Address
from puller.repository.reading import packs
from puller.repository.repository import Repository
from puller.store.base import ObjectInfo
from puller.units import CHUNK, PAGE_CHUNKS, Extent, Kind
from tests.lab.feed import SMALL
from tests.lab.memory import MemoryStore

PAGES, GENERATIONS = 600, 10
SIZE = PAGES * PAGE_CHUNKS * CHUNK


class Counting(MemoryStore):
    """Counts the requests for parts of map packs."""

    reads = 0

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        self.reads += key.startswith("maps/")
        return super().get_range(key, offset, length)

    def get_tail(self, key: str, length: int) -> tuple[bytes, ObjectInfo]:
        self.reads += key.startswith("maps/")
        return super().get_tail(key, length)


def change(repository: Repository, base: Address | None, pages: Iterable[int]) -> Address:
    """A generation that changes half of the chunks of each page, in a map pack of its own.

    The chunks themselves are not there: maps know only where they would be.
    """
    random = np.random.default_rng()
    with repository.run(SMALL) as run:
        writer = run.disk(SIZE, base)
        pack = repository.maps.table.number(random.bytes(16))
        for page in pages:
            chunks = page * PAGE_CHUNKS + np.arange(PAGE_CHUNKS // 2)
            writer.announce(Extent(int(chunks[0]) * CHUNK, len(chunks) * CHUNK, Kind.DATA))
            slots = random.integers(0, 65536, len(chunks)).astype(np.uint16)
            writer.map.place(chunks, np.full(len(chunks), pack), slots)
        run.drain()
        root = writer.finish()
        run.flush()
    return root


@pytest.fixture(scope="module")
def old() -> tuple[Counting, Address]:
    """A disk whose pages lie in turns in the map packs of ten generations."""
    store, root = Counting(), None
    repository = repositories.create(store, None)
    for generation in range(GENERATIONS):
        root = change(repository, root, range(generation, PAGES, GENERATIONS))
    assert root is not None
    return store, root


def _open(store: Counting) -> Repository:
    store.reads = 0
    return repositories.open_repository(store, None)


def test_a_mark_reads_each_map_pack_once_though_nothing_is_kept(
    old: tuple[Counting, Address], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packs, "CACHED", 0)
    repository = _open(old[0])
    reach = Reach(repository.maps)
    root = repository.maps.root(old[1])
    reach.note_root(old[1])
    assert reach.add(root) == []
    held = len(set(root.pages.packs.tolist()))
    batches = -(-PAGES // 256)
    # The tail and one range of each pack, which a batch may part; and the root, from a pack not kept.
    assert held == GENERATIONS
    assert old[0].reads <= 2 * (held + batches) + 2


def test_scattered_changes_on_a_cold_host_ask_less_than_once_a_page(old: tuple[Counting, Address]) -> None:
    repository = _open(old[0])
    change(repository, old[1], range(0, PAGES, 3))
    assert old[0].reads <= 3 * GENERATIONS
