"""Two repositories and their points, for the tests of copies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Self

import puller
from puller.cancelling import CancelScope
from puller.errors import StoreDenied
from puller.events import ignore
from puller.repository.keys.key_slots import KeyFile
from puller.repository.points import Point
from puller.repository.repository import Repository, create, open_repository
from puller.store.base import Body, ObjectInfo, Store
from puller.store.directory.folder import FolderStore
from puller.store.wrapping.wrapped import WrappedStore
from puller.upkeep.copying.copy import CopyReport, copy
from tests.lab.history import MOMENT, TUNING, Disk, back_up

HOUR = timedelta(hours=1)
HERE, THERE = KeyFile(b"h" * 32), KeyFile(b"t" * 32)
PAGES = 2048
"""Chunks of a disk of two pages of the map."""


class Counted(WrappedStore):
    """Counts the requests for each first part of a name, by kind."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.asked: list[str] = []
        self.failing: Callable[[str], bool] = lambda _: False

    def _note(self, word: str, key: str) -> None:
        self.asked.append(f"{word} {key.partition('/')[0]}")

    def within(self, scope: CancelScope) -> Self:
        """One count for all scopes."""
        return self

    def get(self, key: str, *, max_size: int | None = None) -> bytes:
        self._note("get", key)
        return super().get(key, max_size=max_size)

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        self._note("get", key)
        return super().get_range(key, offset, length)

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        self._note("get", key)
        return super().get_ranges(key, ranges)

    def get_tail(self, key: str, length: int) -> tuple[bytes, ObjectInfo]:
        self._note("get", key)
        return super().get_tail(key, length)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        self._note("list", prefix)
        return super().list(prefix)

    def stat(self, key: str) -> ObjectInfo:
        self._note("stat", key)
        return super().stat(key)

    def put_new(self, key: str, body: Body) -> None:
        self._note("put", key)
        if self.failing(key):
            raise StoreDenied(f"cannot write {key}: refused")
        super().put_new(key, body)

    def delete(self, keys: Iterable[str]) -> None:
        self._note("delete", "")
        super().delete(keys)


class Pair:
    """Two repositories in folders, each with its own key."""

    def __init__(self, folder: Path) -> None:
        self.here_store = Counted(FolderStore(folder / "here"))
        self.there_store = Counted(FolderStore(folder / "there"))
        self.folder = folder
        create(self.here_store, HERE)
        create(self.there_store, THERE)

    def here(self) -> Repository:
        return open_repository(self.here_store, HERE)

    def there(self) -> Repository:
        """The target, opened with its own key only."""
        return open_repository(self.there_store, THERE)

    def copy(self, *points: Point) -> CopyReport:
        return copy(self.here(), self.there(), points, TUNING, None, ignore)

    @contextmanager
    def counting(self) -> Iterator[tuple[list[str], list[str]]]:
        """Count the requests to both, after they were opened."""
        self.here_store.asked, self.there_store.asked = [], []
        yield self.here_store.asked, self.there_store.asked


def paged_disk(first: int) -> Disk:
    """A disk of two pages and a bit, most of it zero."""
    disk = [0] * (PAGES + 5)
    for place in range(8):
        disk[place * 200] = first + place
    disk[-1] = first + 100
    return disk


def three_points(repository: Repository) -> list[tuple[Point, Disk]]:
    """A full and two incrementals: what has data changes, becomes zero, comes anew."""
    first = paged_disk(1)
    second = [*first]
    second[0], second[200], second[1500] = 500, 0, 501
    third = [*second]
    third[1500], third[-1] = 0, 502
    made: list[tuple[Point, Disk]] = []
    for number, disk in enumerate((first, second, third)):
        parent, before = made[-1] if made else (None, None)
        point = back_up(repository, "a", disk, parent, before, moment=MOMENT + number * HOUR).commit()
        made.append((point, disk))
    return made


def assert_sound(repository: Repository) -> None:
    assert puller.check(repository, read_data=100.0).errors == ()
