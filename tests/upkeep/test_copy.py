"""Points that are copied to another repository: byte for byte, only what is new, all or nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Self

import msgspec
import pytest

import puller
from puller.cancelling import CancelScope
from puller.errors import DamagedData, StoreDenied, UsageError
from puller.events import ignore
from puller.repository.format.packname import PackKind
from puller.repository.keys.key_slots import KeyFile
from puller.repository.points import Point, object_name
from puller.repository.repository import Repository, create, open_repository
from puller.store.base import Body, ObjectInfo, Store
from puller.store.folder import FolderStore
from puller.store.wrapped import WrappedStore
from puller.units import CHUNK, MIB
from puller.upkeep.copying.copy import Choice, CopyReport, copy, unnamed_points
from puller.upkeep.pruning.prune import prune
from puller.upkeep.retention.policy import Policy
from tests.lab.archive import make_point
from tests.lab.feed import read_disk
from tests.lab.history import MOMENT, TUNING, Disk, back_up, content, is_whole
from tests.lab.seaweed import Seaweed

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


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


def _disk(first: int) -> Disk:
    """A disk of two pages and a bit, most of it zero."""
    disk = [0] * (PAGES + 5)
    for place in range(8):
        disk[place * 200] = first + place
    disk[-1] = first + 100
    return disk


def _history(repository: Repository) -> list[tuple[Point, Disk]]:
    """A full and two incrementals: what has data changes, becomes zero, comes anew."""
    first = _disk(1)
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


def _check(repository: Repository) -> None:
    assert puller.check(repository, read_data=100.0).errors == ()


def test_copies_are_byte_exact_and_opened_by_the_key_of_the_target(pair: Pair) -> None:
    made = _history(pair.here())
    report = pair.copy(*(point for point, _ in made))
    assert [item.point for item in report.copied] == [point.point for point, _ in made]
    assert not report.failed
    there = pair.there()
    for point, disk in made:
        found = there.points.get(point.uuid, point.point)
        assert is_whole(there, found, disk)
        assert (found.time, found.host, found.tags, found.domain) == (
            point.time,
            point.host,
            point.tags,
            point.domain,
        )
        assert found.copied_from is not None
        assert (found.copied_from.repository, found.copied_from.point) == (pair.here().id, point.point)
    assert [point.parent for point in there.points.all()] == [None, made[0][0].point, made[1][0].point]
    _check(there)


def test_a_copy_has_no_checkpoint(pair: Pair) -> None:
    """It belongs to the source: in the target, nothing may be taken incrementally from it."""
    point = make_point(pair.here(), {"vda": content([1])})
    pair.copy(msgspec.structs.replace(point, checkpoint="puller-0123456789ab-x"))
    found = pair.there().points.get(point.uuid, point.point)
    assert (found.checkpoint, found.checkpoint_xml) == (None, None)


def test_only_what_the_target_lacks_is_sent(pair: Pair) -> None:
    made = _history(pair.here())
    sent = [item.chunks_sent for item in pair.copy(*(point for point, _ in made)).copied]
    assert sent == [9 + 1, 2, 1]  # the attachment is a chunk, too


def test_the_parent_is_a_point_of_the_target(pair: Pair) -> None:
    (first, _), (second, _), (third, disk) = _history(pair.here())
    pair.copy(first)
    pair.copy(third)
    there = pair.there()
    found = there.points.get(third.uuid, third.point)
    assert found.parent == found.disks[0].parent == first.point
    assert is_whole(there, found, disk)
    pair.copy(second)
    assert there.points.get(second.uuid, second.point).parent == first.point
    _check(there)


def test_an_older_point_is_copied_after_a_newer_one(pair: Pair) -> None:
    made = _history(pair.here())
    for point, _ in reversed(made):
        pair.copy(point)
    there = pair.there()
    assert all(is_whole(there, there.points.get(p.uuid, p.point), disk) for p, disk in made)
    assert there.points.get(made[0][0].uuid, made[0][0].point).parent == made[1][0].point


def test_a_point_that_the_target_has_costs_one_list(pair: Pair) -> None:
    (first, _), *_ = _history(pair.here())
    pair.copy(first)
    source, target = pair.here(), pair.there()
    with pair.counting() as (here, there):
        report = copy(source, target, [first], TUNING, None, ignore)
    assert report.present == (first.point,)
    assert report.copied == ()
    assert (here, there) == ([], ["list points"])


def test_an_unchanged_point_is_copied_without_reading_a_pack(pair: Pair) -> None:
    here = pair.here()
    disk = _disk(1)
    first = back_up(here, "a", disk, moment=MOMENT).commit()
    again = back_up(here, "a", disk, first, disk, moment=MOMENT + HOUR).commit()
    more = back_up(here, "a", disk, again, disk, moment=MOMENT + 2 * HOUR).commit()
    pair.copy(first)
    source, target = pair.here(), pair.there()
    with pair.counting() as (read, written):
        report = copy(source, target, [again], TUNING, None, ignore)
    assert [(item.chunks_sent, item.bytes_sent) for item in report.copied] == [(0, 0)]
    assert not [
        word for word in (*read, *written) if word in ("get packs", "get maps", "put packs", "put maps")
    ]
    assert len(read) + len(written) <= 10, (read, written)
    source, target = pair.here(), pair.there()
    with pair.counting() as (read, written):
        copy(source, target, [more], TUNING, None, ignore)
    alone = len(read) + len(written)
    pair.there().points.delete([(again.uuid, again.point), (more.uuid, more.point)])
    source, target = pair.here(), pair.there()
    with pair.counting() as (read, written):
        copy(source, target, [again, more], TUNING, None, ignore)
    assert len(read) + len(written) - alone <= 7, "a further point needs no lists of points"
    copied = puller.list_points(pair.there())
    assert [point.point for point in copied] == [first.point, again.point, more.point]
    assert is_whole(pair.there(), pair.there().points.get(again.uuid, again.point), disk)


def test_an_unchanged_point_is_not_built_on_what_is_damaged_in_the_target(pair: Pair) -> None:
    disk = _disk(1)
    first = back_up(pair.here(), "a", disk, moment=MOMENT).commit()
    again = back_up(pair.here(), "a", disk, first, disk, moment=MOMENT + HOUR).commit()
    pair.copy(first)
    for pack in (path for path in (pair.folder / "there" / "packs").rglob("*") if path.is_file()):
        pack.unlink()
    assert puller.check(pair.there(), read_data=100.0).errors
    (done,) = pair.copy(again).copied
    assert done.chunks_sent
    there = pair.there()
    assert is_whole(there, there.points.get(again.uuid, again.point), disk)


def test_each_more_changed_page_costs_few_requests(pair: Pair) -> None:
    """Chunks that have changed in pages of the map that are neighbours in their packs."""

    def asked(places: Sequence[int]) -> int:
        changed = [*disk]
        for place in places:
            changed[place] = 1000 + place
        new = back_up(pair.here(), "a", changed, first, disk, moment=MOMENT + len(places) * HOUR).commit()
        source, target = pair.here(), pair.there()
        with pair.counting() as (read, written):
            copy(source, target, [new], TUNING, None, ignore)
        return len(read) + len(written)

    disk: Disk = [0] * (8 * 1024)
    for page in range(8):
        disk[page * 1024] = page + 1
    first = back_up(pair.here(), "a", disk, moment=MOMENT).commit()
    pair.copy(first)
    few, many = asked([0]), asked([page * 1024 for page in range(8)])
    assert many - few <= 2 * 7


def test_data_that_the_source_has_not_changed_is_not_read(pair: Pair) -> None:
    made = _history(pair.here())
    pair.copy(made[0][0])
    source, target = pair.here(), pair.there()
    with pair.counting() as (read, _):
        copy(source, target, [made[1][0]], TUNING, None, ignore)
    assert len([word for word in read if word == "get packs"]) <= 2


def test_damage_in_the_source_publishes_nothing(pair: Pair) -> None:
    (first, _), *_ = _history(pair.here())
    data = sorted((pair.folder / "here" / "packs").rglob("*"), key=lambda path: path.stat().st_mtime_ns)
    packs = [path for path in data if path.is_file()]
    spoilt = bytearray(packs[0].read_bytes())
    spoilt[100] ^= 1
    packs[0].chmod(0o600)
    packs[0].write_bytes(spoilt)
    report = pair.copy(first)
    assert [(point, type(error)) for point, error in report.failed] == [(first.point, DamagedData)]
    assert first.point in report.failed[0][1].message
    assert pair.there().points.names() == []
    assert list(pair.there().pending.listed()) == []


def test_another_point_is_copied_although_one_is_damaged(pair: Pair) -> None:
    here = pair.here()
    bad = make_point(here, {"vda": content([1, 2, 3])}, "web1")
    pack = next(path for path in (pair.folder / "here" / "packs").rglob("*") if path.is_file())
    pack.unlink()
    good = make_point(pair.here(), {"vda": content([4, 5, 6])}, "web2", MOMENT + HOUR)
    report = pair.copy(bad, good)
    assert [point for point, _ in report.failed] == [bad.point]
    assert [item.point for item in report.copied] == [good.point]


def test_a_point_is_copied_although_the_map_of_the_one_before_is_damaged(pair: Pair) -> None:
    disk: Disk = list(range(1, 41))
    changed = [500, *disk[1:39], 0]
    first = back_up(pair.here(), "a", disk, moment=MOMENT).commit()
    second = back_up(pair.here(), "a", changed, first, disk, moment=MOMENT + HOUR).commit()
    pair.copy(first)
    lost = first.disks[0].root.address.pack
    assert second.disks[0].root.address.pack != lost
    pair.here_store.delete([PackKind.MAP.object_name(lost)])
    assert [item.point for item in pair.copy(second).copied] == [second.point]
    there = pair.there()
    assert is_whole(there, there.points.get(second.uuid, second.point), changed)


def test_what_an_interrupted_copy_has_stored_is_not_sent_again(pair: Pair) -> None:
    here = pair.here()
    disk: Disk = list(range(1, 41))
    point = back_up(here, "a", disk).commit()
    pair.there_store.failing = lambda key: key.startswith(("points/", "pending/"))
    with pytest.raises(StoreDenied):
        pair.copy(point)
    assert pair.there().points.names() == []
    pair.there_store.failing = lambda _: False
    (done,) = pair.copy(point).copied
    assert done.chunks_sent == 0
    assert is_whole(pair.there(), pair.there().points.get(point.uuid, point.point), disk)


def test_a_copy_is_found_by_content_although_no_point_is_common(pair: Pair) -> None:
    disk: Disk = list(range(1, 41))
    first = back_up(pair.here(), "a", disk).commit()
    pair.copy(first)
    other = back_up(pair.here(), "b", [*disk[:-1], 77], title="1", moment=MOMENT + HOUR).commit()
    (done,) = pair.copy(other).copied
    assert done.chunks_sent == 2  # a chunk of the disk, and the attachment


@pytest.mark.parametrize("size", [1, CHUNK, CHUNK + 1, 3 * CHUNK - 17])
def test_disks_of_any_size(pair: Pair, size: int) -> None:
    data = content([1, 2, 3])[:size]
    point = make_point(pair.here(), {"vda": data, "vdb": bytes(size), "vdc": b""})
    pair.copy(point)
    there = pair.there()
    found = there.points.get(point.uuid, point.point)
    assert [read_disk(there, disk.root.address) for disk in found.disks] == [data, bytes(size), b""]


@pytest.mark.parametrize(("before", "after"), [(5, PAGES + 3), (PAGES + 3, 5), (1025, 1024)])
def test_a_resized_disk(pair: Pair, before: int, after: int) -> None:
    old = content([*range(1, 6), *([0] * (before - 5))])[:-100]
    new = (content([1, 2, 9, 4, 5]) + bytes(max(0, after - 5) * CHUNK))[: after * CHUNK - 7]
    first = make_point(pair.here(), {"vda": old})
    second = make_point(pair.here(), {"vda": new}, moment=MOMENT + HOUR)
    pair.copy(first, second)
    there = pair.there()
    found = there.points.get(second.uuid, second.point)
    assert found.parent == first.point
    assert read_disk(there, found.disks[0].root.address) == new
    _check(there)


@pytest.mark.parametrize("is_changed", [True, False])
def test_a_base_that_goes_meanwhile_is_done_without(pair: Pair, is_changed: bool) -> None:
    """Also if nothing but the base's own map is taken over: prune may remove it, once the base is gone."""
    disk = _disk(1)
    changed = [500, *disk[1:]] if is_changed else disk
    first = back_up(pair.here(), "a", disk, moment=MOMENT).commit()
    second = back_up(pair.here(), "a", changed, first, disk, moment=MOMENT + HOUR).commit()
    pair.copy(first)
    there = pair.there()
    names = [(first.uuid, first.point)]
    deleted = threading.Event()

    def fail(key: str) -> bool:
        if key.startswith("pending/") and not deleted.is_set():
            deleted.set()
            there.points.delete(names)
        return False

    pair.there_store.failing = fail
    report = pair.copy(second)
    assert deleted.is_set()
    assert [item.point for item in report.copied] == [second.point]
    found = pair.there().points.get(second.uuid, second.point)
    assert found.parent is None
    assert is_whole(pair.there(), found, changed)


def test_each_repository_keeps_by_its_own_rules(pair: Pair) -> None:
    made = _history(pair.here())
    pair.copy(*(point for point, _ in made))
    prune(pair.here(), Policy(last=1), timedelta(0), ignore)
    there = pair.there()
    assert all(is_whole(there, there.points.get(p.uuid, p.point), disk) for p, disk in made)
    prune(there, Policy(last=2), timedelta(0), ignore)
    assert len(pair.here().points.names()) == 1
    assert len(there.points.names()) == 2
    _check(pair.there())


def test_what_the_target_has_pruned_is_not_copied_again(pair: Pair) -> None:
    made = [point for point, _ in _history(pair.here())]
    pair.copy(*made)
    prune(pair.there(), Policy(last=1), timedelta(0), ignore)
    assert unnamed_points(pair.here(), pair.there(), Choice(), ()) == ([], [])
    assert len(pair.copy(made[1]).copied) == 1, "a named one is"


def test_a_point_that_was_left_out_is_copied_later(pair: Pair) -> None:
    made = [point for point, _ in _history(pair.here())]
    pair.copy(made[0], made[2])
    prune(pair.there(), Policy(last=1), timedelta(0), ignore)
    assert unnamed_points(pair.here(), pair.there(), Choice(), ()) == ([made[1]], [])


def test_a_point_of_nobody_hides_none(pair: Pair) -> None:
    made = [point for point, _ in _history(pair.here())]
    pair.copy(made[0])
    pair.there_store.put_new(object_name(made[0].uuid, "20990101T000000Z-00000000"), b"of nobody")
    assert unnamed_points(pair.here(), pair.there(), Choice(), ()) == (made[1:], [])


def test_a_copy_names_the_point_before_it_in_the_target(pair: Pair) -> None:
    (first, _), (second, _), (third, _) = _history(pair.here())
    pair.copy(first, second)
    there = pair.there()
    there.points.delete([(first.uuid, first.point)])
    pair.copy(third)
    copies = [there.points.get(one.uuid, one.point).previous for one in (second, third)]
    assert copies == [first.point, second.point]


def test_a_copy_can_be_copied_back(pair: Pair) -> None:
    made = _history(pair.here())
    pair.copy(*(point for point, _ in made[:2]))
    pair.here().points.delete([(made[1][0].uuid, made[1][0].point)])
    report = copy(
        pair.there(),
        pair.here(),
        [pair.there().points.get(made[1][0].uuid, made[1][0].point)],
        TUNING,
        None,
        ignore,
    )
    assert report.copied[0].chunks_sent == 0
    back = pair.here().points.get(made[1][0].uuid, made[1][0].point)
    assert back.parent == made[0][0].point
    assert is_whole(pair.here(), back, made[1][1])


def test_what_cannot_be_copied_is_refused_at_once(pair: Pair, tmp_path: Path) -> None:
    (first, _), *_ = _history(pair.here())
    plain = create(FolderStore(tmp_path / "plain"), None)
    with pytest.raises(UsageError, match="not encrypted"):
        copy(pair.here(), plain, [first], TUNING, None, ignore)
    with pytest.raises(UsageError, match="the points are in"):
        copy(pair.here(), pair.here(), [first], TUNING, None, ignore)
    assert plain.points.names() == []


def test_from_bucket_to_bucket(seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seaweed.use(monkeypatch)
    seaweed.make_bucket("copy-here")
    seaweed.make_bucket("copy-there")
    here = puller.create_repository("s3://copy-here/kvm", password="one")
    there = puller.create_repository("s3://copy-there/elsewhere", password="another")
    made = _history(here)
    report = puller.copy_points(here, there)
    assert [item.chunks_sent for item in report.copied] == [10, 2, 1]
    opened = puller.open_repository("s3://copy-there/elsewhere", password="another")
    assert all(is_whole(opened, opened.points.get(p.uuid, p.point), disk) for p, disk in made)
    _check(opened)


def test_copies_are_locked_by_the_policy_of_the_target(
    pair: Pair, seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch
) -> None:
    seaweed.use(monkeypatch)
    seaweed.make_bucket("copy-locked", lock_days=1)
    there = puller.create_repository(
        "s3://copy-locked", password="x", lock_mode="governance", lock_period=timedelta(days=7)
    )
    made = _history(pair.here())
    puller.copy_points(pair.here(), there, [made[0][0]])
    puller.copy_points(pair.here(), there)
    last, disk = made[-1]
    again = back_up(pair.here(), "a", disk, last, disk, moment=MOMENT + 3 * HOUR).commit()
    puller.copy_points(pair.here(), there)
    found = puller.list_points(there)
    assert [point.point for point in found] == [*(point.point for point, _ in made), again.point]
    assert all(point.locked_until is not None for point in found)
    assert puller.check(there).uncovered == ()


def test_a_copy_that_is_killed_publishes_nothing_and_can_be_run_again(tmp_path: Path) -> None:
    data = os.urandom(96 * MIB)
    here = puller.create_repository(str(tmp_path / "here"))
    point = make_point(here, {"vda": data})
    puller.create_repository(str(tmp_path / "there"))
    words = ("copy", "-r", str(tmp_path / "here"), "--to", str(tmp_path / "there"))
    command = [sys.executable, "-m", "puller.cli", *words]
    process = subprocess.Popen([*command, "--limit-upload", "1M"], stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while not any(path.is_file() for path in (tmp_path / "there").glob("packs/*/*")):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert puller.list_points(puller.open_repository(str(tmp_path / "there"))) == []
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    there = puller.open_repository(str(tmp_path / "there"))
    (found,) = puller.list_points(there)
    assert found.point == point.point
    assert read_disk(there, found.disks[0].root.address) == data
