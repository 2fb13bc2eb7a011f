"""Requests and bytes of a copy: only what the target lacks is read and sent."""

from __future__ import annotations

from collections.abc import Sequence

import puller
from puller.events import ignore
from puller.upkeep.copying.copy import copy
from tests.lab.history import MOMENT, TUNING, Disk, back_up, is_whole
from tests.upkeep.copies import (
    HOUR,
    Pair,
    paged_disk,
    three_points,
)


def test_only_what_the_target_lacks_is_sent(pair: Pair) -> None:
    made = three_points(pair.here())
    sent = [item.chunks_sent for item in pair.copy(*(point for point, _ in made)).copied]
    assert sent == [9 + 1, 2, 1]  # the attachment is a chunk, too


def test_a_point_that_the_target_has_costs_one_list(pair: Pair) -> None:
    (first, _), *_ = three_points(pair.here())
    pair.copy(first)
    source, target = pair.here(), pair.there()
    with pair.counting() as (here, there):
        report = copy(source, target, [first], TUNING, None, ignore)
    assert report.present == (first.point,)
    assert report.copied == ()
    assert (here, there) == ([], ["list points"])


def test_an_unchanged_point_is_copied_without_reading_a_pack(pair: Pair) -> None:
    here = pair.here()
    disk = paged_disk(1)
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
    disk = paged_disk(1)
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
    made = three_points(pair.here())
    pair.copy(made[0][0])
    source, target = pair.here(), pair.there()
    with pair.counting() as (read, _):
        copy(source, target, [made[1][0]], TUNING, None, ignore)
    assert len([word for word in read if word == "get packs"]) <= 2


def test_a_copy_is_found_by_content_although_no_point_is_common(pair: Pair) -> None:
    disk: Disk = list(range(1, 41))
    first = back_up(pair.here(), "a", disk).commit()
    pair.copy(first)
    other = back_up(pair.here(), "b", [*disk[:-1], 77], title="1", moment=MOMENT + HOUR).commit()
    (done,) = pair.copy(other).copied
    assert done.chunks_sent == 2  # a chunk of the disk, and the attachment
