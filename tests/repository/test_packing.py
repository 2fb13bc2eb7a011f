"""Packs being filled: contents that are larger than a pack, and such as no reader would take."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest

from puller.errors import RepositoryError
from puller.pipeline.buffers import BufferPool
from puller.repository import repository as repositories
from puller.repository.format.chunk_slot import Piece, content_id
from puller.repository.format.packname import ID, PackKind
from puller.repository.format.sealing import TAG, BoxKind
from puller.repository.keys.key_slots import Password
from puller.repository.repository import Repository
from puller.repository.writing.packing import MAP_PACK, TAIL_ROOM, OpenPack, PackWriter, map_sealing
from puller.units import CHUNK, MIB, PAGE_CHUNKS, Extent, Kind
from tests.lab.feed import SMALL, store_disk
from tests.lab.memory import MemoryStore


class Emitted:
    """Stores what a writer emits, and ends one that emits without end."""

    def __init__(self, repository: Repository, at_most: int) -> None:
        self._repository = repository
        self._left = at_most
        self.packs: list[OpenPack] = []

    def __call__(self, pack: OpenPack) -> None:
        assert self._left, "packs are emitted without end"
        self._left -= 1
        body = pack.body(self._repository.keys, pack.footer())
        self._repository.store.put(pack.kind.object_name(pack.pack_id), bytes(body))
        pack.buffer.release()
        self.packs.append(pack)


@pytest.fixture(params=[None, Password("correct horse")], ids=["plain", "encrypted"])
def repository(request: pytest.FixtureRequest) -> Repository:
    return repositories.create(MemoryStore(), request.param)


def _writer(repository: Repository, emitted: Emitted) -> PackWriter:
    pool = BufferPool(2, MAP_PACK + TAIL_ROOM)
    return PackWriter(map_sealing(repository.keys), PackKind.MAP, pool, emitted, lambda seconds: None)


def _pieces(repository: Repository, contents: list[bytes]) -> list[Piece]:
    return [Piece(content_id(repository.keys.id_key, content), content, 0) for content in contents]


def test_a_content_larger_than_a_pack_gets_one_of_its_own(repository: Repository) -> None:
    """The largest is the root of a disk of 256 TiB, each page of which is in another map pack."""
    sizes = (1000, MAP_PACK - 1, MAP_PACK, 9 * MIB, 11 * MIB, 1000, 92274704, 1000)
    contents = [random.Random(size).randbytes(size) for size in sizes]
    emitted = Emitted(repository, 10)
    writer = _writer(repository, emitted)
    places = []
    for found, _ in writer.add(_pieces(repository, contents)):
        places += [(found.pack.pack_id, slot) for slot in range(found.first, found.first + found.count)]
    writer.flush()
    read = [repository.packs.read(PackKind.MAP, pack, [slot])[slot] for pack, slot in places]
    assert read == contents
    assert all(len(pack.lengths) for pack in emitted.packs), "no pack is empty"


def test_a_content_that_no_reader_takes_is_refused_before_anything_is_stored(repository: Repository) -> None:
    emitted = Emitted(repository, 0)
    writer = _writer(repository, emitted)
    with pytest.raises(RepositoryError, match="a slot may have at most"):
        list(writer.add(_pieces(repository, [b"small", bytes(PackKind.MAP.content_limit + 1)])))
    writer.flush()


def test_a_box_that_no_reader_takes_is_not_made(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("puller.repository.format.sealing.BOX_LIMIT", 100)
    with pytest.raises(RepositoryError, match="too many for a box"):
        repository.keys.boxes().pack(BoxKind.POINT, "points/x", bytes(101))


def test_the_tail_of_a_pack_of_the_smallest_contents_has_room(repository: Repository) -> None:
    """A pack has 65536 slots at most, which fill it here; ids do not compress."""
    rng = random.Random(1)
    size = MAP_PACK // 65536 - (0 if repository.keys.public is None else TAG)
    pieces = [Piece(rng.randbytes(ID), rng.randbytes(size), 0) for _ in range(65536)]
    emitted = Emitted(repository, 1)
    writer = _writer(repository, emitted)
    assert sum(places.count for places, _ in writer.add(pieces)) == 65536
    writer.flush()
    (pack,) = emitted.packs
    assert len(pack.flags) == 65536


def test_only_the_time_that_a_pack_waits_for_a_buffer_is_told(repository: Repository) -> None:
    waited: list[float] = []
    emitted = Emitted(repository, 3)
    pool = BufferPool(2, MAP_PACK + TAIL_ROOM)
    writer = PackWriter(map_sealing(repository.keys), PackKind.MAP, pool, emitted, waited.append)
    began = time.monotonic()
    for _ in range(3):
        list(writer.add(_pieces(repository, [b"content"])))
        writer.flush()
    assert len(waited) == 3
    assert all(seconds >= 0 for seconds in waited)
    assert sum(waited) <= time.monotonic() - began


def test_only_a_content_larger_than_a_pack_gets_a_buffer_beside_the_pool(repository: Repository) -> None:
    """Memory is what the pool takes, whatever is stored."""
    for size, taken in ((1000, True), (MAP_PACK - TAG, True), (MAP_PACK - TAG + 1, False)):
        pool = BufferPool(1, MAP_PACK + TAIL_ROOM)
        writer = PackWriter(
            map_sealing(repository.keys), PackKind.MAP, pool, Emitted(repository, 1), lambda seconds: None
        )
        list(writer.add(_pieces(repository, [bytes(size)])))
        assert (pool.try_acquire() is None) == taken, size


def test_a_disk_is_stored_in_packs_of_32_mib() -> None:
    """A store is asked for few large objects, and a run has buffers for no larger ones."""
    repository = repositories.create(MemoryStore(), None)
    store_disk(repository, random.Random(2).randbytes(66 * MIB))
    sizes = sorted(info.size for info in repository.store.list("packs/"))
    assert len(sizes) == 3
    assert all(31 * MIB < size < 33 * MIB for size in sizes[1:])


def test_maps_are_stored_in_packs_of_8_mib() -> None:
    """As those of data. Each chunk here is in a pack of its own, so the map is as long as can be."""
    repository = repositories.create(MemoryStore(), None)
    count = 600 * PAGE_CHUNKS
    names = random.Random(3).randbytes(count * ID)
    numbers = [repository.maps.table.number(names[at : at + ID]) for at in range(0, len(names), ID)]
    with repository.run(SMALL) as run:
        writer = run.disk(count * CHUNK, None)
        writer.announce(Extent(0, count * CHUNK, Kind.DATA))
        writer.map.place(np.arange(count), np.array(numbers), np.zeros(count, np.uint16))
        writer.finish()
        run.flush()
    sizes = sorted(info.size for info in repository.store.list("maps/"))
    assert len(sizes) == 2
    assert 7 * MIB < sizes[1] < 9 * MIB
