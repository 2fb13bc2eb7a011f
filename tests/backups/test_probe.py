"""How much of a foreign content the probe finds, and that it takes nothing sound for foreign."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

import puller
from puller.backups.bases.probe import Probe, sample_ranges, spread
from puller.repository.points import DiskRecord
from puller.units import CHUNK, MIB, PAGE_CHUNKS, Extent, Kind
from tests.lab.archive import make_point
from tests.lab.probed import Base, Simulated

REPOSITORY_SIZE = 4 * MIB


def test_one_item_of_each_part() -> None:
    chance = random.Random(1)
    assert spread([1, 2], 3, chance) == [1, 2]
    for count in (1, 3, 7):
        taken = spread(range(20), count, chance)
        assert len(taken) == count == len(set(taken))
        assert taken == sorted(taken)


@pytest.mark.parametrize("last", [3, 400, PAGE_CHUNKS, 3 * PAGE_CHUNKS + 9])
def test_the_ends_of_four_parts_up_to_the_last_data_are_looked_at(last: int) -> None:
    contents = np.zeros(4 * PAGE_CHUNKS, np.int64)
    contents[[1, last]] = 7
    image: Any = Base(contents)
    parts = sample_ranges(image, len(contents))
    assert len(parts) == 4
    assert parts[0][1] == last + 1
    assert [stop for _, stop in parts[1:]] + [0] == [start for start, _ in parts]
    lengths = [stop - start for start, stop in parts]
    assert max(lengths) - min(lengths) <= 1


class Disk:
    """A disk in memory of which the chunks ``changed`` are dirty."""

    def __init__(self, content: bytes, data: Iterable[int] = (), changed: Iterable[int] = ()) -> None:
        self.size = len(content)
        self._content = content
        self._data = set(data)
        self._changed = sorted(changed)

    def dirty(self, start: int = 0, end: int | None = None) -> Iterator[Extent]:
        last = self.size if end is None else end
        extents = (Extent(chunk * CHUNK + 512, 512, Kind.DATA) for chunk in self._changed)
        return (extent for extent in extents if start <= extent.offset < last)

    def allocation(self, ranges: Iterable[Extent]) -> Iterator[Extent]:
        for extent in ranges:
            for at in range(extent.offset, extent.end, CHUNK):
                data = at // CHUNK in self._data or any(self.chunk(at // CHUNK))
                yield Extent(at, min(CHUNK, extent.end - at), Kind.DATA if data else Kind.ZERO)

    def chunk(self, number: int) -> bytes:
        return self._content[number * CHUNK : (number + 1) * CHUNK].ljust(CHUNK, b"\0")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> puller.Repository:
    return puller.create_repository(str(tmp_path_factory.mktemp("probe") / "r"))


def sparse(seed: int) -> bytes:
    content = bytearray(REPOSITORY_SIZE)
    content[20 * CHUNK : 24 * CHUNK] = random.Random(seed).randbytes(4 * CHUNK)
    return bytes(content)


def record_of(repository: puller.Repository, content: bytes) -> DiskRecord:
    return make_point(repository, {"vda": content}).disks[0]


def finds(repository: puller.Repository, record: DiskRecord, disk: Disk) -> bool:
    probe = Probe(repository, record, disk.size)
    return any(probe.differs(number, probe.mark(disk.chunk(number))) for number in probe.places(disk))


def test_data_that_reads_as_zeros_is_no_difference(repository: puller.Repository) -> None:
    """Preallocated images, and zeros that were written, say that they are data."""
    for content in (sparse(1), bytes(REPOSITORY_SIZE)):
        record = record_of(repository, content)
        assert not finds(repository, record, Disk(content, data=range(64)))


def test_a_probe_does_not_load_masked_arrays(
    repository: puller.Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first call of ``np.unique`` loads ``numpy.ma``, which took a fifth of a probe's time."""
    record, unique = record_of(repository, sparse(4)), Mock()
    monkeypatch.setattr(np, "unique", unique)
    assert not finds(repository, record, Disk(sparse(4), data=range(64)))
    unique.assert_not_called()


def test_data_where_the_base_has_zeros_and_the_reverse(repository: puller.Repository) -> None:
    blank, other = bytes(REPOSITORY_SIZE), sparse(1)
    assert finds(repository, record_of(repository, blank), Disk(other))
    assert finds(repository, record_of(repository, other), Disk(blank))


def test_a_disk_that_ends_within_a_chunk(repository: puller.Repository) -> None:
    content = sparse(2)[: 23 * CHUNK + 512]
    record = record_of(repository, content)
    assert not finds(repository, record, Disk(content))
    assert not finds(repository, record, Disk(content + bytes(3 * CHUNK)))
    assert finds(repository, record, Disk(content[:-512] + bytes(512)))


def test_a_strange_image_is_looked_at_harder(repository: puller.Repository) -> None:
    content = random.Random(3).randbytes(64 * CHUNK) + bytes(2 * PAGE_CHUNKS * CHUNK)
    record = record_of(repository, content)
    disk = Disk(content, data=range(64, len(content) // CHUNK))
    usual, harder = (
        len(list(Probe(repository, record, disk.size, image_changed=image_changed).places(disk)))
        for image_changed in (False, True)
    )
    assert usual < harder


@pytest.mark.parametrize("kind", ["another image", "over a blank one", "blank over it", "scattered blank"])
def test_an_image_of_another_disk_is_found(kind: str) -> None:
    """``scripts/soak_trust.py`` does it 300 times, on larger disks."""
    found = [Simulated.foreign(kind, random.Random(seed), pages=200).found() for seed in range(40)]
    assert all(found)


@pytest.mark.parametrize("shape", ["at one place", "scattered"])
def test_a_lasting_difference_of_a_hundredth_is_found_within_a_month(shape: str) -> None:
    runs = [Simulated.partial(0.01, shape, random.Random(seed), pages=200).found() for seed in range(200)]
    rate = sum(runs) / len(runs)
    assert 1 - (1 - rate) ** 30 > 0.95, rate


def test_the_cost_stays_a_handful_of_requests() -> None:
    """Pages, footers and reads of a disk of 1 TiB that is half full."""
    disk = Simulated.partial(0.0, "scattered", random.Random(1), pages=16 * PAGE_CHUNKS)
    assert not disk.found()
    assert len(disk.pages) <= 24
    assert len(disk.footers) <= 28
    assert disk.reads <= 16 * 6 + 64 + 12
    assert disk.asked <= 2100


def test_a_strange_image_is_looked_at_ten_times_as_hard_and_no_harder() -> None:
    """16 pages with data are read for a disk that is as it was, 160 for one that is not."""
    contents = np.ones(400 * PAGE_CHUNKS, np.int64)
    for times, pages in ((1, 16), (10, 160)):
        disk = Simulated(contents, contents, random.Random(1), times)
        assert not disk.found()
        ends = 4  # of the four parts, each in a page of its own
        assert pages <= len(disk.pages) <= pages + ends + 2


@pytest.mark.parametrize(("image_changed", "times"), [(False, 1), (True, 10)])
def test_only_a_strange_image_is_looked_at_harder(
    repository: puller.Repository, image_changed: bool, times: int
) -> None:
    record = record_of(repository, bytes(CHUNK))
    assert Probe(repository, record, CHUNK, image_changed=image_changed)._times == times


def test_what_changed_is_no_difference(repository: puller.Repository) -> None:
    """Data over zeros, zeros over data and data over data, all of which the bitmap names."""
    old, new = bytearray(sparse(5)), bytearray(sparse(5))
    changed = [0, 1, 9, 21, 22, 40, 63]
    for chunk in changed:
        new[chunk * CHUNK : (chunk + 1) * CHUNK] = bytes([chunk + 1]) * CHUNK if chunk != 22 else bytes(CHUNK)
    record = record_of(repository, bytes(old))
    assert finds(repository, record, Disk(bytes(new)))
    for _ in range(10):
        assert not finds(repository, record, Disk(bytes(new), changed=changed))
    for chunk in sorted({*changed} - {21}):  # of contents that differ only some are compared
        others = [number for number in changed if number != chunk]
        assert finds(repository, record, Disk(bytes(new), changed=others)), chunk


def test_neighbouring_blank_pages_are_asked_about_at_once() -> None:
    """Nine pages, of which the fifth has data: one request for what is before it, and one for the rest."""
    contents = np.zeros(9 * PAGE_CHUNKS, np.int64)
    contents[4 * PAGE_CHUNKS] = 1
    disk = Simulated(contents, contents, random.Random(1))
    assert not disk.found()
    page = PAGE_CHUNKS * CHUNK
    assert [(extent.offset // page, extent.end // page) for extent in disk.ranges] == [(4, 5), (0, 4), (5, 9)]


def test_any_other_content_is_a_difference(repository: puller.Repository) -> None:
    """Contents have ids in no order: half of the others' are larger and half are smaller."""
    contents = [bytes([number + 1]) * CHUNK for number in range(16)]
    probe = Probe(repository, record_of(repository, b"".join(contents)), 16 * CHUNK)
    for number in range(16):
        differing = [probe.differs(number, probe.mark(content)) for content in contents]
        assert differing == [other != number for other in range(16)]
        assert probe.differs(number, probe.mark(bytes(CHUNK)))


def test_among_preallocated_zeros_stored_contents_are_compared(repository: puller.Repository) -> None:
    """The image says that all is data. Of three stored chunks the first is at no end of a quarter."""
    old, new = bytearray(64 * CHUNK), bytearray(64 * CHUNK)
    for chunk in (10, 11, 40):
        old[chunk * CHUNK] = new[chunk * CHUNK] = chunk
    new[10 * CHUNK] = 99
    record = record_of(repository, bytes(old))
    for _ in range(10):
        assert finds(repository, record, Disk(bytes(new), data=range(64)))
        assert not finds(repository, record, Disk(bytes(old), data=range(64)))
