"""Alarms on simulated years, with and without attacks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from msgspec import structs

from puller.configuration.alarms import Thresholds
from puller.overview.alarm import Alarm, alarms_of, alarms_since
from puller.repository.points import DiskRecord, Point, Ref, new_id
from puller.units import GIB, MIB

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)


@dataclass(frozen=True)
class Life:
    """A machine's days: how much changes, how much of that is new, and what compression leaves of it.

    ``weekly`` multiplies the change of each seventh day; ``upgrades`` is the chance of a day that changes up
    to 3 GiB more.
    """

    size: int
    change: int
    spread: float
    new: float
    left: float
    weekly: float = 1.0
    upgrades: float = 1 / 60


LIVES = {
    "web": Life(40 * GIB, 600 * MIB, 0.5, 0.5, 0.4),
    "database": Life(200 * GIB, 12 * GIB, 0.3, 0.9, 0.35, weekly=3),
    "mail": Life(400 * GIB, 4 * GIB, 0.4, 0.9, 0.7),
    "build": Life(100 * GIB, 15 * GIB, 0.8, 0.6, 0.5, weekly=2),
    "videos": Life(900 * GIB, 20 * GIB, 0.9, 1.0, 0.99),
    "idle": Life(20 * GIB, 60 * MIB, 0.6, 0.3, 0.4),
}


def days(life: Life, random: Random, count: int) -> Iterator[DiskRecord]:
    for day in range(count):
        change = life.change * random.lognormvariate(0, life.spread) * (life.weekly if day % 7 == 6 else 1)
        left = min(1.0, random.gauss(life.left, 0.04))
        if random.random() < life.upgrades:
            change, left = change + 3 * GIB * random.uniform(0.1, 1), random.uniform(0.3, 0.6)
        yield a_disk(life.size, min(life.size, int(change)), life.new, left)


def a_disk(size: int, change: int, new: float, left: float) -> DiskRecord:
    fresh = int(change * new)
    return DiskRecord(
        "vda",
        "incremental",
        size,
        Ref("00" * 16, 0),
        dirty_bytes=change,
        read_bytes=change,
        new_bytes=fresh,
        stored_bytes=int(fresh * left),
    )


def a_point(day: int, *disks: DiskRecord) -> Point:
    moment = NOON + day * DAY
    return Point(new_id(moment), "web1", "5d1a3bc7-64f0-4a15-9c29-20c5c1a3e2ab", moment, "pull", "x", disks)


def a_year(life: Life, seed: int, count: int = 365) -> list[Point]:
    return [a_point(day, disk) for day, disk in enumerate(days(life, Random(seed), count))]


def judged(points: list[Point], first: int = 0) -> list[Alarm]:
    return [alarm for day in range(first, len(points)) for alarm in alarms_of(points[: day + 1][-32:])]


@pytest.mark.parametrize("name", LIVES)
def test_a_year_without_an_attack_is_nearly_quiet(name: str) -> None:
    """Six years of each kind of machine: four false alarms at most."""
    false = [alarm for seed in range(6) for alarm in judged(a_year(LIVES[name], seed))]
    assert len(false) <= 4, [alarm.text for alarm in false]


@pytest.mark.parametrize("name", sorted(LIVES.keys() - {"videos"}))
@pytest.mark.parametrize("share", [0.05, 0.25, 0.9])
def test_who_encrypts_in_one_night_is_seen_in_its_first_point(name: str, share: float) -> None:
    for seed in range(12):
        assert attacked(LIVES[name], seed, share), (name, seed)


def test_where_nothing_compresses_only_an_attack_on_most_of_it_is_seen() -> None:
    found = {
        share: sum(map(bool, (attacked(LIVES["videos"], seed, share) for seed in range(12))))
        for share in (0.1, 0.9)
    }
    assert found[0.1] == 0
    assert found[0.9] >= 11


def attacked(life: Life, seed: int, share: float) -> list[Alarm]:
    attack = a_point(60, a_disk(life.size, int(life.size * share), 1.0, 1.0))
    return alarms_of([*a_year(life, seed, 60), attack])


@pytest.mark.parametrize(("name", "share"), [("idle", 0.01), ("web", 0.05), ("mail", 0.02)])
def test_who_encrypts_slowly_is_seen_where_little_else_changes(name: str, share: float) -> None:
    """A few percent of the disk in each night of a week, in addition to the normal changes."""
    life, seen = LIVES[name], 0
    for seed in range(12):
        points = a_year(life, seed, 60)
        week = list(days(life, Random(seed), 67))[60:]
        points += [a_point(60 + day, hit(disk, int(life.size * share))) for day, disk in enumerate(week)]
        seen += any(alarm.sign == "compression" for alarm in judged(points, 60))
    assert seen >= 11


def hit(disk: DiskRecord, more: int) -> DiskRecord:
    names = ("dirty_bytes", "read_bytes", "new_bytes", "stored_bytes")
    return structs.replace(disk, **{name: getattr(disk, name) + more for name in names})


def test_what_an_alarm_says() -> None:
    quiet = [a_point(day, a_disk(40 * GIB, 512 * MIB, 0.5, 0.4)) for day in range(8)]
    attack = a_point(8, a_disk(40 * GIB, 20 * GIB, 1.0, 1.0))
    change, compression = alarms_of([*quiet, attack])
    assert change == Alarm(
        attack.point, "change", "20.0 GiB changed, 50 % of the disks; before that at most 512 MiB"
    )
    assert compression == Alarm(
        attack.point,
        "compression",
        "20.0 GiB of new data compressed to 100 %; before that mostly to 40 % or less",
    )


def test_a_disk_that_shrinks_or_goes() -> None:
    disk = a_disk(40 * GIB, MIB, 1, 0.5)
    before = a_point(1, disk, structs.replace(disk, disk="vdb"))
    after = a_point(2, structs.replace(disk, size=30 * GIB))
    assert [(alarm.sign, alarm.text) for alarm in alarms_of([before, after])] == [
        ("size", "disk vda shrank from 40.0 GiB to 30.0 GiB"),
        ("size", "disk vdb is not in the point any more"),
    ]


def test_a_copy_of_the_machine_on_another_host_is_no_change_of_its_disks() -> None:
    """Both have one UUID, and are backed up to one repository each night."""
    disk = a_disk(GIB, 0, 0, 0)
    here = [a_point(day, disk, structs.replace(disk, disk="vdb")) for day in range(0, 20, 2)]
    there = [structs.replace(a_point(day, disk), host="lab") for day in range(1, 20, 2)]
    points = sorted([*here, *there], key=lambda point: point.time)
    assert judged(points, first=2) == []
    shrunk = structs.replace(a_point(21, structs.replace(disk, size=GIB // 2)), host="lab")
    assert [alarm.sign for alarm in judged([*points, shrunk], first=2)] == ["size"]


def test_few_points_and_fulls_say_nothing() -> None:
    attack = a_point(9, a_disk(40 * GIB, 20 * GIB, 1.0, 1.0))
    quiet = [a_point(day, a_disk(40 * GIB, 512 * MIB, 0.5, 0.4)) for day in range(6)]
    assert alarms_of([*quiet, attack]) == []
    assert alarms_of([attack]) == []
    assert alarms_of([]) == []


def test_the_thresholds_count() -> None:
    quiet = [a_point(day, a_disk(40 * GIB, 512 * MIB, 0.5, 0.4)) for day in range(9)]
    more = a_point(9, a_disk(40 * GIB, 10 * GIB, 0.5, 0.4))
    assert [alarm.sign for alarm in alarms_of([*quiet, more])] == ["change"]
    assert alarms_of([*quiet, more], replace(Thresholds(), change=30.0)) == []
    assert alarms_of([*quiet, more], replace(Thresholds(), share=0.3)) == []
    assert alarms_of([*quiet, more], replace(Thresholds(), fewest=10)) == []


def test_each_point_of_the_last_days_is_judged_by_those_before_it() -> None:
    points = [a_point(day, a_disk(40 * GIB, 512 * MIB, 0.5, 0.4)) for day in range(20)]
    points[12] = a_point(12, a_disk(40 * GIB, 20 * GIB, 1.0, 1.0))
    found = alarms_since(points, NOON + 10 * DAY)
    assert {alarm.point for alarm in found} == {points[12].point}
    assert alarms_since(points, NOON + 13 * DAY) == ()
