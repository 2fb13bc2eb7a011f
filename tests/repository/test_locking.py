"""A repository with a lock policy in a bucket with Object Lock."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from msgspec.structs import replace

import puller
from puller.repository.points import Point
from puller.repository.records.lockpolicy import LockPolicy
from puller.repository.repository import Repository
from puller.repository.writing import runlocks
from puller.store.objectlock import LockMode
from puller.store.s3.locking import S3Locks
from tests.docs.test_policies import BUCKET, PRINCIPALS, statements
from tests.lab.ceph import Ceph
from tests.lab.history import Disk, back_up, is_whole
from tests.lab.memory import MemoryStore
from tests.lab.s3server import S3Server
from tests.lab.vault import Vault

DOCS = Path(__file__).parents[2] / "docs"
HOUR = timedelta(hours=1)
SPARE = HOUR / 4
VITAL = ("repository.json", "keys/", "locking/")


@dataclass
class Scene:
    vault: Vault
    period: timedelta = HOUR

    def create(self) -> Repository:
        return puller.create_repository(
            self.vault.url, password="x", lock_mode="governance", lock_period=self.period
        )

    def open(self) -> Repository:
        return puller.open_repository(self.vault.url, password="x")

    def back_up(self, disk: Disk, parent: Point | None = None, before: Disk | None = None) -> Point:
        backup = back_up(self.open(), "a", disk, parent, before)
        return backup.commit()

    def shorten(self, *names: str, to: timedelta) -> None:
        """Make locks end this long from now, as if time had passed."""
        until = datetime.now(UTC) + to
        for name in names:
            self.vault.client.put_object_retention(
                Bucket=self.vault.bucket,
                Key=self.vault.prefix + name,
                Retention={"Mode": "GOVERNANCE", "RetainUntilDate": until},
                BypassGovernanceRetention=True,
            )


@pytest.fixture
def scene(empty_vault: Vault) -> Scene:
    return Scene(empty_vault)


def _locked(ends: dict[str, datetime | None]) -> set[str]:
    return {name for name, end in ends.items() if end is not None}


def test_what_a_point_needs_is_locked_and_nothing_else(scene: Scene) -> None:
    scene.create()
    began = datetime.now(UTC).replace(microsecond=0)
    point = scene.back_up([1, 2, 3])
    ends = scene.vault.ends()
    assert point.locked_until is not None
    assert began + HOUR <= point.locked_until <= datetime.now(UTC) + HOUR + SPARE
    needed = {name for name in ends if name.startswith((*VITAL, "packs/", "maps/", "points/"))}
    assert _locked(ends) == needed
    assert all(end >= point.locked_until for end in ends.values() if end is not None)
    assert {name.partition("/")[0] for name in ends.keys() - needed} == {"index"}
    assert scene.vault.end_of(f"points/{point.uuid}/{point.point}") == point.locked_until
    assert scene.open().points.all() == [point]


def test_a_pack_that_a_point_shares_is_extended_before_the_point_is_committed(scene: Scene) -> None:
    scene.create()
    scene.back_up([1, 2, 3])
    (pack,) = scene.vault.names("packs/")
    scene.shorten(pack, to=timedelta(minutes=5))
    began = datetime.now(UTC)
    point = scene.back_up([1, 2, 3, 4])  # a full that finds three of its chunks
    end = scene.vault.end_of(pack)
    assert end is not None and end >= began + HOUR
    assert point.locked_until is not None and point.locked_until >= began.replace(microsecond=0) + HOUR


def test_the_whole_base_is_extended_once_its_locks_end_too_soon(scene: Scene) -> None:
    """Parts of the disk that the run never reads are in packs that only the base's map names."""
    scene.create()
    repository = scene.open()
    first = back_up(repository, "a", [1, 2, 3, 4])
    base = first.run.commit(first.point)
    old = [*scene.vault.names("packs/"), *scene.vault.names("maps/")]
    scene.shorten(*old, to=timedelta(minutes=5))
    soon = datetime.now(UTC) + timedelta(minutes=5)
    point = scene.back_up([1, 2, 3, 5], replace(base, locked_until=soon), [1, 2, 3, 4])
    assert point.locked_until is not None and point.locked_until > soon + timedelta(minutes=50)
    ends = scene.vault.ends()
    assert all((ends[name] or soon) >= point.locked_until for name in old)


def _noting(method: Callable[..., Any], asked: list[str]) -> Callable[..., Any]:
    def noting(self: S3Locks, key: str, *more: Any) -> Any:
        asked.append(f"{method.__name__} {key}")
        return method(self, key, *more)

    return noting


def test_an_incremental_upon_a_covered_base_asks_about_nothing_that_it_takes_over(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.create()
    base = scene.back_up([1, 2, 3, 4])
    asked: list[str] = []
    for name in ("lock_of", "extend"):
        monkeypatch.setattr(S3Locks, name, _noting(getattr(S3Locks, name), asked))
    point = scene.back_up([1, 2, 3, 5], base, [1, 2, 3, 4])
    # The attachment is as before, and is found: its pack, and the map pack with its page and root.
    assert sorted(name.split()[0] for name in asked) == ["lock_of", "lock_of"]
    assert point.locked_until is not None
    assert base.locked_until is not None and point.locked_until <= base.locked_until


def test_within_the_lock_time_every_point_survives_an_administrator(scene: Scene) -> None:
    scene.create()
    base = scene.back_up([1, 2, 3, 4])
    next_one = scene.back_up([1, 2, 3, 5], base, [1, 2, 3, 4])
    before = set(scene.vault.names())
    left = scene.vault.delete_all()
    assert scene.vault.names() == []
    assert left == len(before) - len([name for name in before if name.startswith("index/")])
    for key, version, is_marker in list(scene.vault.entries()):
        if is_marker:
            assert scene.vault.try_delete(key, version)
    repository = scene.open()
    assert {point.point for point in repository.points.all()} == {base.point, next_one.point}
    assert is_whole(repository, base, [1, 2, 3, 4])
    assert is_whole(repository, next_one, [1, 2, 3, 5])


def test_a_directory_and_a_plain_bucket_are_refused_before_anything_is_touched(
    scene: Scene, locking_server: S3Server, tmp_path: Path
) -> None:
    place = tmp_path / "repository"
    with pytest.raises(puller.UnsupportedByStore, match="only S3 buckets have Object Lock"):
        puller.create_repository(str(place), password="x", lock_mode="compliance", lock_period=HOUR)
    assert not place.exists()
    name = f"plain-{uuid4().hex[:8]}"
    locking_server.make_bucket(name)
    with pytest.raises(puller.UnsupportedByStore, match="it has no Object Lock"):
        puller.create_repository(f"s3://{name}", password="x", lock_mode="compliance", lock_period=HOUR)
    assert Vault(locking_server.client(), name).names() == []
    assert MemoryStore().locks.possible is False


def test_a_policy_that_comes_later_locks_what_the_next_point_needs(scene: Scene) -> None:
    puller.create_repository(scene.vault.url, password="x")
    base = scene.back_up([1, 2, 3, 4])
    assert base.locked_until is None
    puller.set_lock(scene.open(), mode="governance", period=HOUR)
    assert _locked(scene.vault.ends()) == {name for name in scene.vault.names() if name.startswith(VITAL)}
    point = scene.back_up([1, 2, 3, 5], base, [1, 2, 3, 4])
    assert point.locked_until is not None
    locked = _locked(scene.vault.ends())
    assert set(scene.vault.names("packs/")) <= locked
    assert f"points/{base.uuid}/{base.point}" not in locked
    puller.set_lock(scene.open())
    assert puller.lock_policy(scene.open()) is None
    assert scene.back_up([7]).locked_until is None


def test_a_run_that_outlasts_its_locks_commits_without(scene: Scene) -> None:
    """Stores refuse a lock that has ended already."""
    scene.period = timedelta(seconds=4)
    scene.create()
    backup = back_up(scene.open(), "a", [1, 2, 3, 4])
    scene.vault.wait_until(datetime.now(UTC) + timedelta(seconds=7))
    point = backup.commit()
    assert point.locked_until is None
    assert backup.run.locks.gap == "the backup has lasted longer than its locks"
    assert is_whole(scene.open(), point, [1, 2, 3, 4])


def test_a_key_that_is_removed_during_the_commit_fails_no_backup(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.create()
    backup = back_up(scene.open(), "a", [1, 2, 3, 4])
    monkeypatch.setattr(runlocks, "vital_names", lambda store: ["repository.json", "keys/0123456789abcdef"])
    point = backup.commit()
    assert point.locked_until is None and "keys/0123456789abcdef" in (backup.run.locks.gap or "")
    assert scene.open().points.all() == [point]


def test_a_new_key_is_locked(scene: Scene) -> None:
    scene.create()
    key = puller.add_key(scene.open(), password="x", new_password="y", role="backup-only")
    assert f"keys/{key}" in _locked(scene.vault.ends())


def test_a_policy_that_has_vanished_is_noticed(scene: Scene) -> None:
    """Somebody may have deleted it: ``puller lock --off`` would leave a record."""
    repository = scene.create()
    base = scene.back_up([1, 2, 3, 4])
    repository.lock_policies.delete(repository.lock_policies.names())
    backup = back_up(scene.open(), "a", [1, 2, 3, 5], base, [1, 2, 3, 4])
    assert backup.run.locks.gap == "the lock policy of the repository is gone"


def test_the_strictest_of_several_policies_counts(scene: Scene) -> None:
    scene.create()
    policies = scene.open().lock_policies
    policies.put(LockPolicy(LockMode.GOVERNANCE, 60))
    policies.put(None)
    assert policies.read() == LockPolicy(LockMode.GOVERNANCE, 3600)


def test_a_host_needs_the_rights_of_the_page_and_no_others(
    scene: Scene, locking_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The policy of a host that only backs up, and the statement about locks, on both servers."""
    scene.create()
    name = "ceph" if isinstance(locking_server, Ceph) else "seaweed"
    prefix = scene.vault.prefix.rstrip("/")
    page = (DOCS / "immutability.md").read_text().partition("\n## Permissions\n")[2]
    block = re.search(r"^```json\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert block is not None
    every = [*statements("backup", PRINCIPALS[name]), json.loads(block[1])]
    policy = json.dumps({"Version": "2012-10-17", "Statement": every})
    policy = policy.replace(f":::{BUCKET}", f":::{scene.vault.bucket}").replace(
        ":::backups", f":::{scene.vault.bucket}"
    )
    policy = policy.replace("kvm/", f"{prefix}/")
    document = json.loads(policy)
    for statement in document["Statement"]:
        statement.setdefault("Principal", document["Statement"][0]["Principal"])
    scene.back_up([1, 2, 3, 4])
    (pack,) = scene.vault.names("packs/")
    scene.shorten(pack, to=timedelta(minutes=5))
    scene.vault.client.put_bucket_policy(Bucket=scene.vault.bucket, Policy=json.dumps(document))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "backup")
    point = scene.back_up([1, 2, 3, 5])
    scene.vault.client.delete_bucket_policy(Bucket=scene.vault.bucket)
    assert point.locked_until is not None
    end = scene.vault.end_of(pack)
    assert end is not None and end >= point.locked_until
