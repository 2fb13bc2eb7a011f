"""Where on a disk change happens, as the maps of its points say."""

from __future__ import annotations

from datetime import timedelta

import pytest

from puller.overview.page.strip import heat
from puller.overview.places import CELLS, DiskPlaces, places_of
from puller.repository.points import Point
from puller.repository.repository import Repository, create
from puller.units import CHUNK
from tests.lab.history import MOMENT, Disk, back_up
from tests.lab.memory import MemoryStore

PAGE = 1024
DAY = timedelta(days=1)


@pytest.fixture
def repository() -> Repository:
    return create(MemoryStore(), None)


def history(repository: Repository, *changes: tuple[int, ...]) -> list[Point]:
    """A machine of five pages; each of ``changes`` are the pages that change before the next point."""
    disk: Disk = [0] * (5 * PAGE)
    disk[0] = 1
    points = [back_up(repository, "a", list(disk)).commit()]
    for number, pages in enumerate(changes, 1):
        before = list(disk)
        for page in pages:
            disk[page * PAGE] = 100 * number + page
        moment = MOMENT + number * DAY
        points.append(back_up(repository, "a", list(disk), points[-1], before, moment=moment).commit())
    return points


def test_how_often_each_part_changed(repository: Repository) -> None:
    points = history(repository, (1,), (1, 3), (), (1,))
    assert places_of(repository, points, 8) == (DiskPlaces("vda", PAGE * CHUNK, 4, (0, 3, 0, 1, 0)),)


def test_only_the_newest_points_are_compared(repository: Repository) -> None:
    points = history(repository, (0,), (1,), (2,))
    (found,) = places_of(repository, points, 3)
    assert (found.pairs, found.changed) == (2, (0, 1, 1, 0, 0))


@pytest.mark.parametrize("count", [0, 1])
def test_what_is_not_asked_for_is_not_read(repository: Repository, count: int) -> None:
    assert places_of(repository, history(repository, (1,)), count) == ()


def test_one_point_says_nothing(repository: Repository) -> None:
    assert places_of(repository, history(repository), 8) == ()


def test_a_map_that_cannot_be_read_is_left_out(repository: Repository) -> None:
    points = history(repository, (1,), (2,))
    for info in list(repository.store.list("maps/")):
        repository.store.delete([info.key])
    assert places_of(create_again(repository), points, 8) == ()


def create_again(repository: Repository) -> Repository:
    """The same repository, of which nothing has been read yet."""
    return Repository(repository.store, repository.descriptor, repository.keys)


def test_a_disk_of_many_pages_is_shown_in_few_parts(repository: Repository) -> None:
    disk: Disk = [0] * (100 * PAGE)
    first = back_up(repository, "a", disk).commit()
    changed = [*disk[:-1], 7]
    second = back_up(repository, "a", changed, first, disk, moment=MOMENT + DAY).commit()
    (found,) = places_of(repository, [first, second], 8)
    assert len(found.changed) <= CELLS
    assert found.part_bytes == 3 * PAGE * CHUNK
    assert (sum(found.changed), found.changed[-1]) == (1, 1)


def test_the_picture_says_in_words_what_it_shows() -> None:
    text = str(heat(DiskPlaces("vda", 64 << 20, 4, (0, 4, 0, 1))))
    assert 'aria-label="vda: change in 2 of 4 parts of the disk, most often from 64.0 MiB to 128 MiB"' in text
    assert '<path class="h4" d="M10 4h10"/>' in text
    assert '<path class="h1" d="M30 4h10"/>' in text
