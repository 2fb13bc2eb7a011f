"""Copies that fail or are interrupted: all or nothing, and the next copy goes on."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import puller
from puller.errors import DamagedData, StoreDenied, UsageError
from puller.events import ignore
from puller.repository.format.packname import PackKind
from puller.repository.repository import create
from puller.store.directory.folder import FolderStore
from puller.units import MIB
from puller.upkeep.copying.copy import copy
from tests.lab.archive import make_point
from tests.lab.feed import read_disk
from tests.lab.history import MOMENT, TUNING, Disk, back_up, content, is_whole
from tests.upkeep.copies import (
    HOUR,
    Pair,
    paged_disk,
    three_points,
)


def test_damage_in_the_source_publishes_nothing(pair: Pair) -> None:
    (first, _), *_ = three_points(pair.here())
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


@pytest.mark.parametrize("is_changed", [True, False])
def test_a_base_that_goes_meanwhile_is_done_without(pair: Pair, is_changed: bool) -> None:
    """Also if nothing but the base's own map is taken over: prune may remove it, once the base is gone."""
    disk = paged_disk(1)
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


def test_what_cannot_be_copied_is_refused_at_once(pair: Pair, tmp_path: Path) -> None:
    (first, _), *_ = three_points(pair.here())
    plain = create(FolderStore(tmp_path / "plain"), None)
    with pytest.raises(UsageError, match="not encrypted"):
        copy(pair.here(), plain, [first], TUNING, None, ignore)
    with pytest.raises(UsageError, match="the points are in"):
        copy(pair.here(), pair.here(), [first], TUNING, None, ignore)
    assert plain.points.names() == []


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
