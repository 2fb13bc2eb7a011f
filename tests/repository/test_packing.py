"""Packs being filled: contents that are larger than a pack, and such as no reader would take."""

from __future__ import annotations

import random

import pytest

from puller.errors import RepositoryError
from puller.pipeline.buffers import BufferPool
from puller.repository import repository as repositories
from puller.repository.format.chunk_slot import content_id
from puller.repository.format.footer import ID, PackKind
from puller.repository.format.sealing import TAG, BoxKind
from puller.repository.keys.key_slots import Password
from puller.repository.repository import Repository
from puller.repository.writing.packing import MAP_PACK, TAIL_ROOM, OpenPack, PackWriter, Piece
from puller.units import MIB
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
    return PackWriter(repository.keys, PackKind.MAP, pool, emitted, lambda seconds: None)


def _pieces(repository: Repository, contents: list[bytes]) -> list[Piece]:
    return [Piece(content_id(repository.keys.id_key, content), content, 0) for content in contents]


def test_a_content_larger_than_a_pack_gets_one_of_its_own(repository: Repository) -> None:
    """The largest is the root of a disk of 256 TiB, each page of which is in another map pack."""
    sizes = (1000, MAP_PACK - 1, MAP_PACK, 9 * MIB, 1000, 92274704, 1000)
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
    with pytest.raises(RepositoryError, match="larger than a slot may be"):
        list(writer.add(_pieces(repository, [b"small", bytes(PackKind.MAP.content_limit + 1)])))
    writer.flush()


def test_a_box_that_no_reader_takes_is_not_made(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("puller.repository.format.sealing.BOX_LIMIT", 100)
    with pytest.raises(RepositoryError, match="larger than a box may hold"):
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
