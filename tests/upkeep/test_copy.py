"""Points that are copied to another repository: byte for byte, and each repository keeps by its own rules."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

import puller
from puller.events import ignore
from puller.repository.points import object_name
from puller.units import CHUNK
from puller.upkeep.copying.copy import Choice, copy, unnamed_points
from puller.upkeep.pruning.prune import prune
from puller.upkeep.retention.policy import Policy
from tests.lab.archive import make_point
from tests.lab.feed import read_disk
from tests.lab.history import MOMENT, TUNING, back_up, content, is_whole
from tests.lab.seaweed import Seaweed
from tests.upkeep.copies import (
    HOUR,
    PAGES,
    Pair,
    assert_sound,
    three_points,
)


def test_copies_are_byte_exact_and_opened_by_the_key_of_the_target(pair: Pair) -> None:
    made = three_points(pair.here())
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
    assert_sound(there)


def test_a_copy_has_no_checkpoint(pair: Pair) -> None:
    """It belongs to the source: in the target, nothing may be taken incrementally from it."""
    point = make_point(pair.here(), {"vda": content([1])})
    pair.copy(msgspec.structs.replace(point, checkpoint="puller-0123456789ab-x"))
    found = pair.there().points.get(point.uuid, point.point)
    assert (found.checkpoint, found.checkpoint_xml) == (None, None)


def test_the_parent_is_a_point_of_the_target(pair: Pair) -> None:
    (first, _), (second, _), (third, disk) = three_points(pair.here())
    pair.copy(first)
    pair.copy(third)
    there = pair.there()
    found = there.points.get(third.uuid, third.point)
    assert found.parent == found.disks[0].parent == first.point
    assert is_whole(there, found, disk)
    pair.copy(second)
    assert there.points.get(second.uuid, second.point).parent == first.point
    assert_sound(there)


def test_an_older_point_is_copied_after_a_newer_one(pair: Pair) -> None:
    made = three_points(pair.here())
    for point, _ in reversed(made):
        pair.copy(point)
    there = pair.there()
    assert all(is_whole(there, there.points.get(p.uuid, p.point), disk) for p, disk in made)
    assert there.points.get(made[0][0].uuid, made[0][0].point).parent == made[1][0].point


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
    assert_sound(there)


def test_each_repository_keeps_by_its_own_rules(pair: Pair) -> None:
    made = three_points(pair.here())
    pair.copy(*(point for point, _ in made))
    prune(pair.here(), Policy(last=1), timedelta(0), ignore)
    there = pair.there()
    assert all(is_whole(there, there.points.get(p.uuid, p.point), disk) for p, disk in made)
    prune(there, Policy(last=2), timedelta(0), ignore)
    assert len(pair.here().points.names()) == 1
    assert len(there.points.names()) == 2
    assert_sound(pair.there())


def test_what_the_target_has_pruned_is_not_copied_again(pair: Pair) -> None:
    made = [point for point, _ in three_points(pair.here())]
    pair.copy(*made)
    prune(pair.there(), Policy(last=1), timedelta(0), ignore)
    assert unnamed_points(pair.here(), pair.there(), Choice(), ()) == ([], [])
    assert len(pair.copy(made[1]).copied) == 1, "a named one is"


def test_a_point_that_was_left_out_is_copied_later(pair: Pair) -> None:
    made = [point for point, _ in three_points(pair.here())]
    pair.copy(made[0], made[2])
    prune(pair.there(), Policy(last=1), timedelta(0), ignore)
    assert unnamed_points(pair.here(), pair.there(), Choice(), ()) == ([made[1]], [])


def test_a_point_of_nobody_hides_none(pair: Pair) -> None:
    made = [point for point, _ in three_points(pair.here())]
    pair.copy(made[0])
    pair.there_store.put_new(object_name(made[0].uuid, "20990101T000000Z-00000000"), b"of nobody")
    assert unnamed_points(pair.here(), pair.there(), Choice(), ()) == (made[1:], [])


def test_a_copy_names_the_point_before_it_in_the_target(pair: Pair) -> None:
    (first, _), (second, _), (third, _) = three_points(pair.here())
    pair.copy(first, second)
    there = pair.there()
    there.points.delete([(first.uuid, first.point)])
    pair.copy(third)
    copies = [there.points.get(one.uuid, one.point).previous for one in (second, third)]
    assert copies == [first.point, second.point]


def test_a_copy_can_be_copied_back(pair: Pair) -> None:
    made = three_points(pair.here())
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


def test_from_bucket_to_bucket(seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seaweed.use(monkeypatch)
    seaweed.make_bucket("copy-here")
    seaweed.make_bucket("copy-there")
    here = puller.create_repository("s3://copy-here/kvm", password="one")
    there = puller.create_repository("s3://copy-there/elsewhere", password="another")
    made = three_points(here)
    report = puller.copy_points(here, there)
    assert [item.chunks_sent for item in report.copied] == [10, 2, 1]
    opened = puller.open_repository("s3://copy-there/elsewhere", password="another")
    assert all(is_whole(opened, opened.points.get(p.uuid, p.point), disk) for p, disk in made)
    assert_sound(opened)


def test_copies_are_locked_by_the_policy_of_the_target(
    pair: Pair, seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch
) -> None:
    seaweed.use(monkeypatch)
    seaweed.make_bucket("copy-locked", lock_days=1)
    there = puller.create_repository(
        "s3://copy-locked", password="x", lock_mode="governance", lock_period=timedelta(days=7)
    )
    made = three_points(pair.here())
    puller.copy_points(pair.here(), there, [made[0][0]])
    puller.copy_points(pair.here(), there)
    last, disk = made[-1]
    again = back_up(pair.here(), "a", disk, last, disk, moment=MOMENT + 3 * HOUR).commit()
    puller.copy_points(pair.here(), there)
    found = puller.list_points(there)
    assert [point.point for point in found] == [*(point.point for point, _ in made), again.point]
    assert all(point.locked_until is not None for point in found)
    assert puller.check(there).uncovered == ()
