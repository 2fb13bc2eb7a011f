"""Which points a policy keeps: examples in restic's terms, and what must hold for any policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from puller.configuration.quantities import duration
from puller.errors import NoSuchPoint
from puller.repository.points import DiskRecord, Point, Ref
from puller.repository.selection import Scope
from puller.units import GIB
from puller.upkeep.retention.policy import Decision, Policy, decide
from tests.lab.history import uuid_of

START = datetime(2026, 1, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
REF = Ref("00" * 16, 0)


def point(moment: datetime, domain: str = "a", disks: Sequence[str] = ("vda",), number: int = 0) -> Point:
    records = tuple(DiskRecord(disk, "full", 0, REF, stored_bytes=GIB) for disk in disks)
    name = f"{moment:%Y%m%dT%H%M%SZ}-{number:08x}"
    return Point(name, domain, uuid_of(domain), moment, "pull", "full", records)


def kept(points: Sequence[Point], policy: Policy) -> list[Point]:
    names = {item.point for item in decide(points, policy) if item.keep}
    return [point for point in points if point.point in names]


def days_kept(days: int, policy: Policy) -> list[int]:
    """Of one point a day at noon, the ages in days of those that stay."""
    points = [point(START + day * DAY) for day in range(days)]
    return [days - 1 - (item.time - START).days for item in kept(points, policy)]


def test_last() -> None:
    assert days_kept(10, Policy(last=3)) == [2, 1, 0]


def test_rules_keep_hundreds_as_they_keep_a_few() -> None:
    assert days_kept(310, Policy(last=300)) == list(range(299, -1, -1))
    assert days_kept(310, Policy(daily=300)) == list(range(299, -1, -1))


def test_periods_keep_the_newest_of_each() -> None:
    points = [point(START + timedelta(hours=6 * number)) for number in range(12)]
    assert [item.time.isoformat() for item in kept(points, Policy(daily=2))] == [
        "2026-01-03T18:00:00+00:00",
        "2026-01-04T06:00:00+00:00",
    ]


def test_periods_without_points_do_not_count() -> None:
    points = [point(START + age * DAY) for age in (0, 100, 101, 400)]
    assert kept(points, Policy(daily=3)) == points[1:]
    assert kept(points, Policy(monthly=2)) == [points[2], points[3]]
    assert kept(points, Policy(yearly=5)) == [points[2], points[3]]


def test_weeks_are_those_of_iso() -> None:
    """2025-12-29 … 2026-01-04 is one week, though it is in two years."""
    points = [point(datetime(2025, 12, 28, tzinfo=UTC) + day * DAY) for day in range(9)]
    assert [item.time.day for item in kept(points, Policy(weekly=3))] == [28, 4, 5]


def test_within_counts_from_the_newest_point_and_not_from_now() -> None:
    assert days_kept(10, Policy(within=timedelta(days=2))) == [2, 1, 0]
    assert days_kept(10, Policy(within=timedelta(0))) == [0]
    assert len(days_kept(10, Policy(within=timedelta.max))) == 10


@pytest.mark.parametrize("text", ["7d", "36h", "90min", "45s", "0s"])
def test_within_is_told_as_a_user_writes_it(text: str) -> None:
    (decision,) = decide([point(START)], Policy(within=duration(text)))
    assert f"within {text} of the newest" in decision.reasons


def test_rules_add_up() -> None:
    assert days_kept(60, Policy(last=2, weekly=2, monthly=3)) == [29, 7, 1, 0]


def test_days_are_those_of_utc_whatever_the_zone_of_a_time() -> None:
    early = datetime(2026, 1, 2, 0, 30, tzinfo=timezone(timedelta(hours=5)))  # still the 1st in UTC
    points = [point(datetime(2026, 1, 1, 12, tzinfo=UTC)), point(early, number=1)]
    assert kept(points, Policy(daily=5)) == points[1:]


def test_no_rule_keeps_all() -> None:
    assert days_kept(5, Policy()) == [4, 3, 2, 1, 0]


def test_domains_are_judged_by_themselves() -> None:
    points = [point(START + day * DAY, domain) for day in range(3) for domain in "ab"]
    assert kept(points, Policy(last=1)) == points[-2:]
    decisions = decide(points, Policy(last=1))
    assert [item.domain for item in decisions] == ["a"] * 3 + ["b"] * 3


def test_a_renamed_domain_is_still_the_same() -> None:
    old = point(START, "a")
    new = structs.replace(point(START + DAY, "a"), domain="new name")
    assert kept([old, new], Policy(last=1)) == [new]


def test_names_of_domains_are_compared_by_their_letters() -> None:
    """The name that is typed is never the same object as the one that is stored."""
    points = [
        structs.replace(point(START + day * DAY), domain=name) for day, name in enumerate(("old", "new"))
    ]
    for letters in ("old", "new"):
        policy = Policy(last=1, domains=("".join(list(letters)),)).resolved(points)
        assert policy.domains == (uuid_of("a"),)


def test_the_newest_point_with_a_disk_stays() -> None:
    both = point(START, disks=("vda", "vdb"))
    one = [point(START + day * DAY, disks=("vda",)) for day in (1, 2)]
    decisions = decide([both, *one], Policy(last=1))
    name = f"{START:%Y%m%dT%H%M%SZ}-00000000"
    why = "newest with vdb (1.0 GiB added; stays until 2026-02-01)"
    assert decisions[0] == Decision(name, "a", True, (why,))
    assert decisions[1].reasons == ("no rule keeps it",)
    assert decisions[2].reasons == ("newest of its domain", "last 1")


def test_a_disk_that_is_gone_is_let_go_after_the_longest_rule() -> None:
    both = point(START, disks=("vda", "vdb"))

    def stays(days: int, policy: Policy) -> bool:
        """Whether it does when the disk was missing for so many days, after a pause of a year."""
        one = [point(START + (365 + day) * DAY, disks=("vda",)) for day in range(days + 1)]
        return both in kept([both, *one], policy)

    for policy, days in (
        (Policy(last=1), 30),
        (Policy(daily=7), 30),
        (Policy(last=3, monthly=6), 186),
        (Policy(weekly=8, daily=7), 56),
        (Policy(within=100 * DAY), 100),
    ):
        assert (stays(days, policy), stays(days + 1, policy)) == (True, False), policy
    assert stays(999, Policy()), "without a rule all stays"
    assert stays(999, Policy(yearly=10**9))


def test_the_longest_rule_tells_how_far_a_policy_reaches() -> None:
    for policy, reach in (
        (Policy(last=1000), 30 * DAY),
        (Policy(hourly=40 * 24), 40 * DAY),
        (Policy(daily=40, hourly=960), 40 * DAY),
        (Policy(weekly=5), 35 * DAY),
        (Policy(monthly=2, weekly=5), 62 * DAY),
        (Policy(yearly=2), 732 * DAY),
        (Policy(within=31 * DAY), 31 * DAY),
        (Policy(yearly=10**9), timedelta.max // (366 * DAY) * 366 * DAY),
    ):
        assert policy.reach == reach, policy


def test_hosts_are_judged_by_themselves() -> None:
    points = [
        structs.replace(point(START + day * DAY, number=number), host=host)
        for day in range(3)
        for number, host in enumerate(("kvm1", "kvm2"))
    ]
    assert kept(points, Policy(last=1)) == points[-2:]
    assert kept(points, Policy(last=1, across_hosts=True)) == points[-1:]
    assert kept(points, Policy(last=1, hosts=("kvm2",))) == [*points[::2], points[-1]]
    assert kept(points, Policy(hosts=("kvm2",))) == points
    decisions = decide(points, Policy(last=1, hosts=("*1",)))
    assert {item.reasons for item in decisions if item.host == "kvm2"} == {("not of these hosts",)}


def test_of_one_second_the_child_is_newer_than_its_parent() -> None:
    old, new = point(START, number=9), point(START, number=1)
    new = structs.replace(new, parent=old.point)
    assert kept([old, new], Policy(last=1)) == kept([new, old], Policy(last=1)) == [new]


# --- for any policy ---------------------------------------------------------------------------

_COUNTS = st.none() | st.integers(1, 6)
_POLICIES = st.builds(
    Policy,
    _COUNTS,
    _COUNTS,
    _COUNTS,
    _COUNTS,
    _COUNTS,
    _COUNTS,
    st.none() | st.timedeltas(timedelta(0), timedelta(days=900)),
)
_RULES = ("last", "hourly", "daily", "weekly", "monthly", "yearly", "within")


@st.composite
def histories(draw: st.DrawFn) -> list[Point]:
    minutes = draw(st.lists(st.integers(0, 800 * 24 * 60), max_size=25))
    return [
        point(
            START + timedelta(minutes=minute),
            draw(st.sampled_from("ab")),
            draw(st.sampled_from([("vda",), ("vda", "vdb"), ("vdb",), ()])),
            number,
        )
        for number, minute in enumerate(minutes)
    ]


def names(points: Sequence[Point]) -> set[str]:
    return {item.point for item in points}


@given(histories(), _POLICIES)
def test_each_point_is_decided_once(points: list[Point], policy: Policy) -> None:
    decisions = decide(points, policy)
    assert sorted(item.point for item in decisions) == sorted(names(points))
    assert all(item.reasons for item in decisions)


@given(histories(), _POLICIES)
def test_the_newest_is_always_kept_and_each_disk_has_a_point(points: list[Point], policy: Policy) -> None:
    """As long as the disk was not missing for longer than the longest rule reaches."""
    left = kept(points, policy)
    for uuid in {item.uuid for item in points}:
        mine = [item for item in points if item.uuid == uuid]
        newest = max(mine, key=lambda item: (item.time, item.point))
        assert newest in left
        for disk in ("vda", "vdb"):
            holders = [item for item in mine if item.disk(disk)]
            if holders:
                last = max(holders, key=lambda item: (item.time, item.point))
                later = [item.time for item in mine if (item.time, item.point) > (last.time, last.point)]
                after = min(later, default=newest.time)
                gone = newest.time - after > policy.reach and policy != Policy()
                assert last in left or gone


@given(histories(), _POLICIES)
def test_deciding_again_removes_no_more(points: list[Point], policy: Policy) -> None:
    left = kept(points, policy)
    assert kept(left, policy) == left


@given(histories(), _POLICIES, st.sampled_from(_RULES), st.integers(1, 8))
def test_a_rule_more_or_a_larger_one_never_removes_more(
    points: list[Point], policy: Policy, rule: str, count: int
) -> None:
    if policy == Policy():
        return  # without any rule all is kept
    more = count * DAY if rule == "within" else count
    old = getattr(policy, rule)
    changes: dict[str, Any] = {rule: more if old is None else old + more}
    larger = replace(policy, **changes)
    assert names(kept(points, policy)) <= names(kept(points, larger))


@given(histories(), _POLICIES, st.randoms())
def test_the_order_in_which_points_come_does_not_matter(
    points: list[Point], policy: Policy, random: Random
) -> None:
    shuffled = list(points)
    random.shuffle(shuffled)
    assert set(decide(points, policy)) == set(decide(shuffled, policy))


def of(job: str) -> Scope:
    return Scope(job, ("*",), (), ("*",))


def test_a_job_judges_only_what_is_its_own() -> None:
    moments = [datetime(2026, 11, day, tzinfo=UTC) for day in range(1, 7)]
    points = [
        structs.replace(point(moment), tags={"job": job} if job else {})
        for moment, job in zip(moments, ["nightly", "nightly", "", "hourly", "nightly", ""], strict=True)
    ]
    assert kept(points, Policy(last=1, scope=of("nightly"))) == points[2:]
    assert kept(points, Policy(last=1, scope=of("weekly"))) == points
    assert kept(points, Policy(scope=of("nightly"))) == points
    reasons = {item.point: item.reasons for item in decide(points, Policy(last=1, scope=of("nightly")))}
    assert reasons[points[3].point] == ("not of this job",)
    assert "last 1" in reasons[points[4].point]


def tagged(moment: datetime, domain: str = "a", **tags: str) -> Point:
    return structs.replace(point(moment, domain), tags=tags)


def test_tags_say_which_points_the_rules_are_for() -> None:
    points = [tagged(START + day * DAY, **({"kind": "manual"} if day % 2 else {})) for day in range(6)]
    assert kept(points, Policy(last=1, tags=("kind=manual",))) == [points[0], points[2], points[4], points[5]]
    assert kept(points, Policy(last=1, tags=("kind", "other"))) == [*points[:5:2], points[5]]
    assert kept(points, Policy(last=1, tags=("kind=else",))) == points
    decisions = decide(points, Policy(last=1, tags=("kind",)))
    assert decisions[0].reasons == ("without these tags",)


def test_a_point_with_a_keep_tag_stays_and_counts_in_the_rules() -> None:
    points = [tagged(START + day * DAY, **({"release": "1"} if day == 2 else {})) for day in range(5)]
    assert kept(points, Policy(last=1, keep_tags=("release",))) == [points[2], points[4]]
    assert kept(points, Policy(last=3, keep_tags=("release=1",))) == points[2:]
    assert kept(points, Policy(last=1, keep_tags=("release=2",))) == points[4:]
    assert decide(points, Policy(last=1, keep_tags=("release",)))[2].reasons == ("tag release",)
    assert Policy(keep_tags=("release",), tags=("x",), domains=("a",)).is_empty


def test_domains_are_meant_by_the_name_of_their_newest_point() -> None:
    old, new = point(START), structs.replace(point(START + DAY), domain="renamed")
    other, last = point(START, "b", number=5), point(START + DAY, "b", number=6)
    points = [old, new, other]
    for word in ("renamed", "a", old.uuid):
        assert Policy(domains=(word,)).resolved(points).domains == (old.uuid,)
    again = structs.replace(point(START, "c"), domain="a")
    assert Policy(domains=("a",)).resolved([*points, again]).domains == (again.uuid,)
    with pytest.raises(NoSuchPoint, match="'z'"):
        Policy(domains=("b", "z")).resolved(points)
    policy = Policy(last=1, domains=("renamed",)).resolved(points)
    assert kept([*points, last], policy) == [new, other, last]
