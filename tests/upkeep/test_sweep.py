"""Prune in a bucket with Object Lock: points stay while they are locked; then everything is deleted."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

import puller
from puller.events import Event, Notice, ignore
from puller.repository.format.packname import parse_pack_name
from puller.repository.locking import packs_of
from puller.store.probe import UNCONDITIONAL
from puller.upkeep.checking.check import check
from puller.upkeep.checking.schedule import Reading
from puller.upkeep.pruning.prune import PruneReport, prune
from puller.upkeep.retention.policy import Policy
from tests.lab.history import Disk, back_up, is_whole
from tests.lab.vault import Vault

HOUR = timedelta(hours=1)
NOW = timedelta(0)
LAST = Policy(last=1)


@dataclass
class Scene:
    """``told`` are the notices of the last prune."""

    vault: Vault
    told: list[str] = field(default_factory=list)

    def open(self) -> puller.Repository:
        return puller.open_repository(self.vault.url, password="x")

    def back_up(
        self, disk: Disk, day: int, parent: puller.Point | None = None, before: Disk | None = None
    ) -> puller.Point:
        moment = datetime(2026, 11, 1 + day, tzinfo=UTC)
        return back_up(self.open(), "a", disk, parent, before, moment=moment).commit()

    def prune(self, policy: Policy = LAST) -> PruneReport:
        self.told = []
        return prune(self.open(), policy, NOW, self._note)

    def _note(self, event: Event) -> None:
        if isinstance(event, Notice) and event.text != UNCONDITIONAL:  # Ceph, in buckets with versions
            self.told.append(event.text)

    def end_locks(self, only: str = "") -> None:
        """End all locks with the permission that nobody should have, as if their time were over."""
        soon = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=2)
        for key, version, is_marker in self.vault.entries():
            if not is_marker and key.startswith(self.vault.prefix + only):
                self.vault.client.put_object_retention(
                    Bucket=self.vault.bucket,
                    Key=key,
                    VersionId=version,
                    Retention={"Mode": "GOVERNANCE", "RetainUntilDate": soon},
                    BypassGovernanceRetention=True,
                )
        self.vault.wait_until(soon + timedelta(seconds=1))


@pytest.fixture
def scene(empty_vault: Vault) -> Scene:
    puller.create_repository(empty_vault.url, password="x", lock_mode="governance", lock_period=HOUR)
    return Scene(empty_vault)


def test_prune_frees_nothing_that_is_locked_and_everything_afterwards(scene: Scene) -> None:
    old = scene.back_up([1, 2, 3, 4], 0)
    new = scene.back_up([11, 12, 13], 1)
    held = scene.prune()
    assert held.removed == () and set(held.kept) == {old.point, new.point}
    (decision,) = [item for item in held.decisions if item.point == old.point]
    assert decision.reasons[0].startswith("locked until ")
    with pytest.raises(puller.PointKept, match="it is locked until"):
        puller.delete(scene.open(), [old.point])
    scene.end_locks()
    report = scene.prune()
    assert report.removed == (old.point,)
    assert report.waiting == () and scene.told == []
    assert is_whole(scene.open(), new, [11, 12, 13])
    # What stays of this prune is its own lease, until the next one.
    left = [entry for entry in scene.vault.entries() if "/locks/" not in entry[0]]
    assert not any(is_marker for _, _, is_marker in left)
    assert sorted(key for key, _, _ in left) == sorted(
        scene.vault.prefix + name for name in scene.vault.names()
    )
    assert scene.vault.size() < 4 * 65536 < report.bytes_freed
    assert len(scene.vault.names("points/")) == 1


def test_what_is_deleted_waits_for_its_lock_and_prune_says_until_when(scene: Scene) -> None:
    """Data of a run that died: no point needs it, and the store holds it."""
    scene.back_up([1, 2, 3, 4], 0)
    back_up(scene.open(), "b", [21, 22, 23])  # is never committed
    report = scene.prune()
    assert report.packs_deleted == 2
    (waiting,) = report.waiting
    assert waiting.objects == 2 and waiting.bytes > 3 * 65536
    assert waiting.day - datetime.now(UTC).date() <= timedelta(days=1)
    assert scene.prune().waiting == report.waiting
    scene.end_locks()
    assert scene.prune().bytes_freed >= waiting.bytes
    assert scene.prune().waiting == ()


def test_a_compacted_pack_is_locked_like_the_one_before(scene: Scene) -> None:
    seeds = [*range(1, 9)]
    big = scene.back_up(seeds, 0)
    small = scene.back_up([1, 0, 0, 0, 0, 0, 0, 0], 1, big, seeds)
    ends = {name: scene.vault.end_of(name) for name in scene.vault.names("packs/")}
    scene.end_locks(f"points/{big.uuid}/{big.point}")
    report = scene.prune()
    assert report.removed == (big.point,) and report.packs_compacted
    compacted = [name for name in scene.vault.names("packs/") if name.endswith(".1")]
    assert compacted
    assert all(scene.vault.end_of(name) == ends[name.removesuffix(".1")] is not None for name in compacted)
    assert is_whole(scene.open(), small, [1, 0, 0, 0, 0, 0, 0, 0])


def test_what_somebody_else_hid_stays_and_is_told(scene: Scene) -> None:
    """Even if no lock holds it: prune would make the damage final."""
    point = scene.back_up([1, 2, 3, 4], 0)
    scene.end_locks()
    (pack,) = scene.vault.names("packs/")
    scene.vault.client.delete_object(Bucket=scene.vault.bucket, Key=scene.vault.prefix + pack)
    scene.prune()
    assert [text for text in scene.told if "puller repair versions" in text]
    puller.repair_versions(scene.vault.url, password="x")
    assert is_whole(scene.open(), point, [1, 2, 3, 4])


def test_check_names_points_whose_locks_end_before_they_say(scene: Scene) -> None:
    base = scene.back_up([1, 2, 3, 4], 0)
    scene.back_up([1, 2, 3, 5], 1, base, [1, 2, 3, 4])
    assert check(scene.open(), (), Reading(), ignore).uncovered == ()
    first = min(scene.vault.names("packs/"), key=lambda name: scene.vault.end_of(name) or datetime.max)
    scene.end_locks(first)
    found = check(scene.open(), (), Reading(), ignore).uncovered
    reached = [point for point in scene.open().points.all() if _reaches(scene, point, first)]
    assert [item.point for item in found] == [point.point for point in reached] != []
    assert {item.needs for item in found} == {first}
    assert all(item.until is not None and item.until < item.promised for item in found)


def _reaches(scene: Scene, point: puller.Point, name: str) -> bool:
    parsed = parse_pack_name(name)
    roots = [disk.root.address for disk in point.disks] + [item.root.address for item in point.attachments]
    return parsed is not None and (parsed[0], parsed[1]) in packs_of(scene.open().maps, roots)


def test_a_deleted_pack_whose_lock_holds_below_covers_its_points(scene: Scene) -> None:
    scene.back_up([1, 2, 3, 4], 0)
    (pack,) = scene.vault.names("packs/")
    scene.vault.client.delete_object(Bucket=scene.vault.bucket, Key=scene.vault.prefix + pack)
    report = check(scene.open(), (), Reading(), ignore)
    assert report.errors and report.uncovered == ()


def test_what_was_repaired_is_not_told_again(scene: Scene) -> None:
    """Below the copy that a repair has put lies a forgery that is locked."""
    point = scene.back_up([1, 2, 3, 4], 0)
    (pack,) = scene.vault.names("packs/")
    scene.vault.client.put_object(
        Bucket=scene.vault.bucket,
        Key=scene.vault.prefix + pack,
        Body=b"ransom",
        ObjectLockMode="GOVERNANCE",
        ObjectLockRetainUntilDate=datetime.now(UTC) + HOUR,
    )
    scene.prune()
    assert [text for text in scene.told if "puller repair versions" in text]
    puller.repair_versions(scene.vault.url, password="x")
    scene.prune()
    assert scene.told == []
    assert is_whole(scene.open(), point, [1, 2, 3, 4])


def test_a_shorter_policy_breaks_no_promise_of_older_points(scene: Scene) -> None:
    """Objects that every restore needs are locked as long as any point claims, even if they are put later."""
    scene.back_up([1, 2, 3, 4], 0)
    puller.set_lock(scene.open(), mode="governance", period=HOUR / 10)
    puller.add_key(scene.open(), password="x", new_password="y")
    assert check(scene.open(), (), Reading(), ignore).uncovered == ()
    puller.set_lock(scene.open())
    assert check(scene.open(), (), Reading(), ignore).uncovered == ()


def test_locks_that_nobody_can_end_end_by_themselves(empty_vault: Vault) -> None:
    """With seconds in place of days: nothing can be deleted before the end, and everything afterwards."""
    period = timedelta(seconds=8)
    puller.create_repository(empty_vault.url, password="x", lock_mode="compliance", lock_period=period)
    scene = Scene(empty_vault)
    old = scene.back_up([1, 2, 3, 4], 0)
    new = scene.back_up([11, 12, 13], 1)
    assert old.locked_until is not None and new.locked_until is not None
    packs = {key for key, _, _ in empty_vault.entries() if "/packs/" in key or "/points/" in key}
    empty_vault.delete_all(bypass=True)
    left = {key for key, _, is_marker in empty_vault.entries() if not is_marker}
    if datetime.now(UTC) < old.locked_until:  # else this machine was too slow to try it in time
        assert packs <= left
        puller.repair_versions(empty_vault.url, password="x")
        assert is_whole(scene.open(), old, [1, 2, 3, 4])
        empty_vault.wait_until(new.locked_until + period)
        assert scene.prune().removed == (old.point,)
        assert scene.prune().waiting == () and empty_vault.size() < 4 * 65536
        assert is_whole(scene.open(), new, [11, 12, 13])
