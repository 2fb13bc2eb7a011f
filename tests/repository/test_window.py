"""A stored disk against a set of its chunks, and a window of it: gaps and what is filled."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puller.errors import DamagedData, ObjectChanged
from puller.repository import repository as repositories
from puller.repository.format.address import Address
from puller.repository.reading import image
from puller.repository.reading.damage import Damage
from puller.repository.reading.image import DiskImage, PackJob, Window
from puller.repository.reading.packs import OPENINGS
from puller.repository.writing.diskmap import DiskMap
from puller.units import CHUNK, PAGE_CHUNKS, Extent, Kind
from tests.lab.feed import read_disk, store_disk
from tests.lab.memory import MemoryStore
from tests.repository.test_diskmap import PACKS, Shelf

LAST = 5 * PAGE_CHUNKS + 703
"""The number of the last chunk of the disks here, which is not a whole one."""

_NO_PACKS: Any = None
"""Only the map is read."""

Numbers = st.sampled_from([at + by for at in range(0, LAST, PAGE_CHUNKS) for by in (0, 1, 2, 700)])


class _DamagedPacks:
    def open(self, *_: object) -> None:
        raise DamagedData("no footer")

    def contents(self, *_: object) -> None:
        raise AssertionError("there is no footer")


def _image(stored: dict[int, int], packs: Any = _NO_PACKS) -> tuple[DiskImage, Shelf]:
    """A disk that has the chunks ``stored``, each in the pack of that number and in the slot 3."""
    shelf = Shelf()
    size = LAST * CHUNK + 512
    map_ = DiskMap(size, None, shelf.reader, shelf.store)
    for chunk in sorted(stored):
        map_.announce(Extent(chunk * CHUNK, min(CHUNK, size - chunk * CHUNK), Kind.DATA))
        map_.place(np.array([chunk]), np.array([stored[chunk]]), np.array([3], np.uint16))
    pack, slot = map_.finish()
    return DiskImage(shelf.reader, packs, Address(shelf.table.pack_id(pack), slot)), shelf


Stored = st.dictionaries(Numbers | st.just(LAST), st.integers(0, PACKS - 1), max_size=9)


@settings(deadline=None, max_examples=60)
@given(Stored, Numbers | st.just(0), Numbers | st.just(LAST + 1), st.sets(Numbers))
def test_what_is_stored_between_two_chunks(
    stored: dict[int, int], start: int, end: int, loaded: set[int]
) -> None:
    """Also on disks of many pages, whichever of these have been read before."""
    disk, _ = _image(stored)
    disk.load(sorted({chunk // PAGE_CHUNKS for chunk in loaded}))
    found = list(disk.stored_between(start, end))
    firsts = [first for first, _ in found]
    assert firsts == sorted(set(firsts), reverse=True)
    assert all(first <= chunk < first + PAGE_CHUNKS for first, chunks in found for chunk in chunks)
    assert all(chunks == sorted(chunks) for _, chunks in found)
    assert {chunk for _, chunks in found for chunk in chunks} == {c for c in stored if start <= c < end}


@settings(deadline=None, max_examples=60)
@given(Stored, st.integers(1, 4))
def test_a_disk_is_what_its_map_has(stored: dict[int, int], pages: int) -> None:
    disk, shelf = _image(stored)
    full = {chunk // PAGE_CHUNKS for chunk in stored}
    assert disk.empty_pages().tolist() == [page not in full for page in range(LAST // PAGE_CHUNKS + 1)]
    for chunk in (*stored, 0, PAGE_CHUNKS + 5, LAST):
        assert disk.is_stored(chunk) == (chunk in stored)
        assert (disk.packs_of(chunk // PAGE_CHUNKS)[chunk % PAGE_CHUNKS] >= 0) == (chunk in stored)
    for pack in range(PACKS):
        assert disk.needs([shelf.table.pack_id(pack)]) == (pack in stored.values())
    assert any(disk.needs([pack]) for pack in shelf.batches) == bool(stored), "of pages"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image, "WINDOW_PAGES", pages)
        windows = list(disk.windows())
    borders = [window.offset for window in windows] + [disk.size]
    assert borders == [0, *(window.end for window in windows)]
    assert all(window.end - window.offset <= pages * PAGE_CHUNKS * CHUNK for window in windows)
    jobs = [job for window in windows for job in window.jobs]
    placed = {chunk: job.pack_id for job in jobs for chunk in job.chunks.tolist()}
    assert placed == {chunk: shelf.table.pack_id(pack) for chunk, pack in stored.items()}
    assert all((job.slots == 3).all() for job in jobs)


@given(st.sets(st.integers(3, 12)), st.integers(1, CHUNK), st.integers(1, 3))
def test_gaps_and_what_is_filled_make_up_the_window(chunks: set[int], last: int, packs: int) -> None:
    end = 12 * CHUNK + last
    ordered = sorted(chunks)
    jobs = tuple(
        PackJob(
            bytes([pack]),
            np.array(ordered[pack::packs], np.int64),
            np.arange(len(ordered[pack::packs]), dtype=np.uint16),
        )
        for pack in range(packs)
    )
    window = Window(3, end, np.ones(10, np.bool_), jobs, ())
    ranges = sorted([*window.gaps(), *window.filled()])
    assert [offset for offset, _ in ranges] + [end] == [3 * CHUNK] + [
        offset + length for offset, length in ranges
    ]
    filled = {
        at // CHUNK for offset, length in window.filled() for at in range(offset, offset + length, CHUNK)
    }
    assert filled == chunks


def test_damage_is_named_by_its_place_on_the_disk_and_ends_with_it() -> None:
    disk, _ = _image({1: 0, PAGE_CHUNKS + 2: 0, LAST: 0}, _DamagedPacks())
    found = [item for window in disk.windows() for job in window.jobs for item in disk.read(job)]
    assert found == [
        Damage(CHUNK, CHUNK, "no footer"),
        Damage((PAGE_CHUNKS + 2) * CHUNK, CHUNK, "no footer"),
        Damage(LAST * CHUNK, 512, "no footer"),
    ]


@pytest.mark.parametrize(
    "size", [PAGE_CHUNKS * CHUNK + 2 * CHUNK, PAGE_CHUNKS * CHUNK + CHUNK + 512, 512, CHUNK]
)
def test_what_is_read_ends_with_the_disk(size: int) -> None:
    """A chunk is stored in whole; a target may have no room behind the disk's end."""
    repository = repositories.create(MemoryStore(), None)
    content = bytes(range(1, 252)) * (size // 251 + 1)
    root, _ = store_disk(repository, content[:size])
    disk = DiskImage(repository.maps, repository.packs, root)
    pieces = [piece for window in disk.windows() for job in window.jobs for piece in disk.read(job)]
    assert all(not isinstance(piece, Damage) and piece[0] + len(piece[1]) <= size for piece in pieces)
    assert read_disk(repository, root) == content[:size]


@pytest.mark.parametrize("times", [0, 1, OPENINGS - 1, OPENINGS])
def test_a_pack_that_is_rewritten_while_it_is_read_is_read_again(
    times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each chunk comes once all the same."""
    repository = repositories.create(MemoryStore(), None)
    content = random.Random(1).randbytes(40 * CHUNK)
    root, _ = store_disk(repository, content)
    disk = DiskImage(repository.maps, repository.packs, root)
    [window] = disk.windows()
    [job] = window.jobs
    contents, left = repository.packs.contents, iter(range(times))

    def breaking_off(*arguments: Any) -> Iterator[Any]:
        for number, item in enumerate(contents(*arguments)):
            if number == 7 and next(left, None) is not None:
                raise ObjectChanged("the pack is another one now")
            yield item

    monkeypatch.setattr(repository.packs, "contents", breaking_off)
    if times == OPENINGS:
        with pytest.raises(ObjectChanged):
            list(disk.read(job))
        return
    pieces: list[Any] = list(disk.read(job))
    assert [offset for offset, _ in pieces] == [chunk * CHUNK for chunk in job.chunks.tolist()]
    assert b"".join(piece for _, piece in sorted(pieces)) == content
