"""How far back the search for a base has to go."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from msgspec import structs

from puller.backups.bases.bases import Base, choose, oldest_of, overdue, without_mismatched_bitmaps
from puller.backups.bases.facts import REPLACED, WRITTEN, data_file_fault, may_differ, recorded
from puller.backups.bases.history import History
from puller.backups.bases.probe import FOREIGN
from puller.hypervisor.domain.checkpoint import checkpoint_name, owner_of
from puller.hypervisor.domain.disks.disk import DataFileFacts, Disk, ImageFacts, parse_disks
from puller.repository.points import DiskRecord, Point, Ref
from puller.units import MIB

REPOSITORY = "0123456789abcdef" * 2


def test_no_point_of_the_second_of_the_oldest_checkpoint_is_behind_it() -> None:
    """Two points of one second are in no order by their ids, and the newer one may come first."""
    names = [checkpoint_name(REPOSITORY, f"20261123T05000{second}Z-80000000") for second in (2, 1)]
    oldest = oldest_of([*names, "a-stranger-s"], REPOSITORY)
    assert oldest <= "20261123T050001Z-00000000"
    assert oldest > "20261123T050000Z-ffffffff"
    assert oldest_of(["a-stranger-s"], REPOSITORY) > "99991231T235959Z-ffffffff"


def test_what_was_read_as_a_whole_too_long_ago_is_compared() -> None:
    """The newest point that has the disk tells when that was, whatever the disk is incremental from."""
    now = datetime(2026, 11, 28, tzinfo=UTC)
    base = Base(None, "checkpoint", "")
    for whole, due in (("20261101T000000Z-00000000", False), ("20261029T000000Z-00000000", True)):
        record = DiskRecord("vda", "incremental", MIB, Ref("00" * 16, 0), whole=whole)
        point = Point("20261127T000000Z-00000000", "web", "u", now, "pull", "incremental", (record,))
        found = overdue(cast(History, [point]), {"vda": base}, timedelta(days=30), now)
        assert found["vda"].checkpoint == (None if due else "checkpoint")


def test_all_disks_of_a_checkpoint_are_doubted_with_a_foreign_one() -> None:
    bases = {target: Base(None, "one", "") for target in ("vda", "vdb")} | {"vdc": Base(None, "two", "")}
    kept = {
        target: base.checkpoint
        for target, base in without_mismatched_bitmaps(bases, {"vdb": FOREIGN}).items()
    }
    assert kept == {"vda": None, "vdb": None, "vdc": "two"}
    damaged = without_mismatched_bitmaps(bases, {"vdb": "its last map is damaged: gone"})
    assert [damaged[target].checkpoint for target in bases] == ["one", None, "two"]


def test_an_image_is_strange_unless_it_is_the_one_that_it_was_and_no_shorter() -> None:
    now = ImageFacts(7, "1.5", 100, "3 9.5")
    then = recorded(now)
    assert not may_differ(now, then)
    assert not may_differ(replace(now, size=101), then), "qcow2 grows"
    changed = ({"inode": 8}, {"born": "2.5"}, {"size": 99}, {"qemu": ""})
    assert all(may_differ(replace(now, **change), then) for change in changed)


class Sound:
    """Dirty bitmaps that are all whole."""

    oldest = ""

    def sound(self, checkpoint: str) -> frozenset[str]:
        return frozenset({"vda", "vdb"})

    def fault(self, checkpoint: str) -> str:
        return "broken"


def _point(second: int, *targets: str) -> Point:
    point_id = f"20261123T05000{second}Z-80000000"
    records = tuple(
        DiskRecord(target, "full", MIB, Ref("00" * 16, 0), format="qcow2", source=f"/{target}")
        for target in targets
    )
    checkpoint = checkpoint_name(REPOSITORY, point_id)
    moment = datetime(2026, 11, 23, 5, 0, second, tzinfo=UTC)
    return Point(point_id, "web", "u", moment, "pull", "full", records, checkpoint=checkpoint)


def _disk(target: str, **facts: Any) -> Disk:
    xml = f"<disk type='file' device='disk'><driver type='qcow2'/><source file='/{target}'/>"
    (disk,) = parse_disks(f"<domain><devices>{xml}<target dev='{target}'/></disk></devices></domain>")
    return replace(disk, **facts)


def test_a_disk_that_the_newest_point_lacks_is_taken_from_an_older_one() -> None:
    history = [_point(2, "vda"), _point(1, "vda", "vdb")]
    bases = choose(cast(History, history), [_disk("vda"), _disk("vdb")], Sound())
    parents = {target: base.parent.point for target, base in bases.items() if base.parent is not None}
    assert parents == {"vda": history[0], "vdb": history[1]}
    assert {base.kind for base in bases.values()} == {"incremental"}


def test_the_reason_names_the_images_behind_a_disk() -> None:
    history = [_point(1, "vda")]
    bases = choose(cast(History, history), [_disk("vda", backing=("qcow2 /b", "raw /c"))], Sound())
    assert bases["vda"].reason == "its backing images are now qcow2 /b, raw /c and were nothing"


class _Past(list[Point]):
    """A history of which only these points are there."""

    def holds(self, checkpoint: str) -> bool:
        return owner_of(checkpoint) in {point.point for point in self}


class _Broken(Sound):
    def sound(self, checkpoint: str) -> frozenset[str]:
        return frozenset()


def test_the_reason_tells_whether_the_point_of_the_bitmap_is_lost_or_the_bitmap() -> None:
    """The one is the repository's fault and the other is the host's."""
    gone = checkpoint_name(REPOSITORY, "20261123T050000Z-80000000")
    later = structs.replace(_point(1, "vda"), checkpoint=gone)
    lost = "point 20261123T050000Z-80000000, since which its dirty bitmap records, is gone"
    for history, bitmaps, reason in (
        (_Past([later]), Sound(), lost),
        (_Past([later]), _Broken(), lost),
        (_Past([_point(1, "vda")]), _Broken(), "broken"),
    ):
        base = choose(cast(History, history), [_disk("vda")], bitmaps)["vda"]
        assert (base.kind, base.reason[: len(reason)]) == ("rehash", reason)


def test_an_older_point_whose_bitmap_is_there_is_built_upon() -> None:
    """The newest point left no checkpoint. Nothing is looked for behind the oldest checkpoint."""
    newest = structs.replace(_point(3, "vda"), checkpoint=None)
    history = _Past([newest, _point(2, "vda"), _point(1, "vda")])
    bitmaps = Sound()
    base = choose(cast(History, history), [_disk("vda")], bitmaps)["vda"]
    assert (base.kind, base.parent and base.parent.point) == ("incremental", history[1])
    bitmaps.oldest = newest.point + "~"
    base = choose(cast(History, history), [_disk("vda")], bitmaps)["vda"]
    assert (base.kind, base.reason) == ("rehash", "the last point has no checkpoint")


DATA = DataFileFacts("/dev/vg/web", 9, "1.5", 100, "20.0")
STATE = ImageFacts(7, "1.5", 100, "3 9.5", "21.0", DATA)
OFF = replace(STATE, qemu="")


def _fault(*states: ImageFacts) -> str | None:
    return data_file_fault([recorded(state) for state in states])


def test_a_data_file_that_only_qemu_has_written_to_is_believed() -> None:
    assert _fault(STATE, STATE) is None
    assert _fault(OFF, OFF, STATE) is None
    newer = replace(STATE, data=replace(DATA, size=200, modified="30.0"))
    assert _fault(newer, STATE) is None, "its guest writes"
    device = replace(DATA, inode=12, born="7.0", size=0)
    assert _fault(replace(STATE, data=device), replace(STATE, data=replace(DATA, size=0))) is None
    assert _fault(ImageFacts(), STATE) is None, "nothing is known"


def test_a_data_file_that_another_program_changed_is_not_believed() -> None:
    for change in ({"inode": 10}, {"born": "2.5"}):
        assert _fault(replace(STATE, data=replace(DATA, **change)), STATE) == REPLACED
    written = replace(OFF, data=replace(DATA, modified="21.1"))
    assert _fault(written, STATE) == WRITTEN
    assert _fault(STATE, written, STATE) == WRITTEN, "the bitmap has still not seen it"
    put_back = replace(OFF, data=replace(DATA, modified="12.0"))
    assert _fault(put_back, OFF, STATE) == WRITTEN
