"""Slots in a folder: what lies there does not depend on the store any more."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from puller.errors import DamagedData, ObjectNotFound
from puller.recovery.serving.slots import CachedPackReader, SlotFolder
from puller.repository import repository as repositories
from puller.repository.format.packname import PackKind
from puller.repository.keys.key_slots import Password
from puller.repository.reading.image import DiskImage, PackJob
from puller.repository.reading.packs import Span, StoredPack
from puller.repository.repository import Repository
from puller.store.base import Store
from puller.units import CHUNK, MIB
from tests.lab.feed import store_disk
from tests.lab.memory import MemoryStore

CONTENT = random.Random(1).randbytes(64 * CHUNK)


@pytest.fixture(params=[None, Password("correct horse")], ids=["plain", "encrypted"])
def repository(request: pytest.FixtureRequest) -> Repository:
    found = repositories.create(MemoryStore(), request.param)
    store_disk(found, CONTENT)
    return found


@pytest.fixture
def reader(repository: Repository, tmp_path: Path) -> CachedPackReader:
    return CachedPackReader(repository.store, repository.keys, SlotFolder(tmp_path / "slots", 64 * MIB))


def opened(reader: CachedPackReader, repository: Repository) -> StoredPack:
    largest = max(repository.store.list(PackKind.DATA.prefix), key=lambda info: info.size)
    pack = reader.open(PackKind.DATA, bytes.fromhex(largest.key[-32:]))
    assert pack.footer.offsets[2] < pack.size - len(pack.tail), "a reader has the tail anyway"
    return pack


def spans_of(pack: StoredPack, *slots: int) -> Span:
    start, stop = int(pack.footer.offsets[slots[0]]), int(pack.footer.offsets[slots[-1] + 1])
    return Span(slots, start, stop - start)


def contents(reader: CachedPackReader, pack: StoredPack, *spans: Span) -> dict[int, bytes | DamagedData]:
    return {
        slot: content
        for span, stored in reader.fetch(pack, spans)
        for slot, content in reader.contents(pack, span, stored)
    }


def damage(repository: Repository, pack: StoredPack, span: Span) -> None:
    stored = bytearray(repository.store.get(pack.name))
    stored[span.offset : span.offset + span.length] = bytes(span.length)
    repository.store.delete([pack.name])
    repository.store.put(pack.name, bytes(stored))


def test_what_the_folder_holds_is_read_beside_what_the_store_must_give(
    repository: Repository, reader: CachedPackReader
) -> None:
    pack = opened(reader, repository)
    first = contents(reader, pack, spans_of(pack, 0))
    damage(repository, pack, spans_of(pack, 0))
    found = contents(reader, pack, spans_of(pack, 0), spans_of(pack, 2))
    assert set(found) == {0, 2}
    assert found[0] == first[0]
    assert not isinstance(found[2], DamagedData)


def test_a_slot_in_the_folder_outlives_the_fetch_of_its_neighbours(
    repository: Repository, reader: CachedPackReader
) -> None:
    pack = opened(reader, repository)
    first = contents(reader, pack, spans_of(pack, 1))
    damage(repository, pack, spans_of(pack, 1))
    for _ in range(2):
        found = contents(reader, pack, spans_of(pack, 0, 1, 2))
        assert found[1] == first[1]
        assert not any(isinstance(content, DamagedData) for content in found.values())


class Hiccup:
    """A store in which the first ranges to be read are gone, as while a pack is being compacted."""

    def __init__(self, store: Store) -> None:
        self._ranges = store.get_ranges
        self.left = 1

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        if self.left:
            self.left -= 1
            raise ObjectNotFound(f"{key} is gone")
        return self._ranges(key, ranges)


def test_every_chunk_is_read_once_if_the_pack_is_compacted_while_some_lie_in_the_folder(
    repository: Repository, reader: CachedPackReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, _ = store_disk(repository, CONTENT)
    image = DiskImage(repository.maps, reader, root)
    job = max((job for window in image.windows() for job in window.jobs), key=lambda job: len(job.chunks))
    chunks, slots = job.chunks[[0, -1]], job.slots[[0, -1]]
    pack = reader.open(PackKind.DATA, job.pack_id)
    contents(reader, pack, spans_of(pack, int(slots[1])))
    hiccup = Hiccup(repository.store)
    monkeypatch.setattr(repository.store, "get_ranges", hiccup.get_ranges)
    found = list(image.read(PackJob(job.pack_id, chunks, slots)))
    assert not hiccup.left
    assert found == [(chunk * CHUNK, CONTENT[chunk * CHUNK :][:CHUNK]) for chunk in chunks.tolist()]
