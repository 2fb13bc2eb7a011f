"""Everything that can be deleted or overwritten is deleted or overwritten, and comes back from its
versions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

import puller
from puller.repository.format.sealing import BoxKind
from puller.upkeep.checking.check import check
from puller.upkeep.checking.schedule import Reading
from tests.lab.history import back_up, is_whole
from tests.lab.vault import Vault

HOUR = timedelta(hours=1)


@pytest.fixture
def vault(empty_vault: Vault) -> Vault:
    puller.create_repository(empty_vault.url, password="x", lock_mode="compliance", lock_period=HOUR)
    return empty_vault


def _open(vault: Vault) -> puller.Repository:
    return puller.open_repository(vault.url, password="x")


def _history(vault: Vault) -> dict[str, tuple[puller.Point, list[int]]]:
    """A full, an incremental and a point that shares with both."""
    first = back_up(_open(vault), "a", [1, 2, 3, 4]).commit()
    second = back_up(_open(vault), "a", [1, 2, 3, 5], first, [1, 2, 3, 4]).commit()
    third = back_up(_open(vault), "b", [2, 5, 6]).commit()
    return {
        point.point: (point, disk)
        for point, disk in ((first, [1, 2, 3, 4]), (second, [1, 2, 3, 5]), (third, [2, 5, 6]))
    }


def _all_restore(vault: Vault, points: dict[str, tuple[puller.Point, list[int]]]) -> bool:
    repository = _open(vault)
    found = {point.point for point in repository.points.all()}
    report = check(repository, (), Reading(100.0), lambda event: None)
    return (
        found == points.keys()
        and not report.errors
        and all(is_whole(repository, point, disk) for point, disk in points.values())
    )


def test_all_that_can_be_deleted_is_deleted_and_every_point_comes_back(vault: Vault) -> None:
    points = _history(vault)
    vault.delete_all(bypass=True)
    with pytest.raises(puller.NoRepository):
        _open(vault)
    report = puller.repair_versions(vault.url, password="x")
    assert report.unreadable == ()
    assert report.brought_back["points/"] == 3 and report.brought_back["repository.json"] == 1
    assert _all_restore(vault, points)
    puller.repair_index(_open(vault))
    assert back_up(_open(vault), "c", [1, 2, 3, 5]).commit().disks[0].new_bytes == 0
    assert puller.repair_versions(vault.url, password="x").count == 0


def test_what_was_put_above_is_removed_even_if_it_is_sealed_and_locked(vault: Vault) -> None:
    """A thief of the host's key seals a record as puller does, and locks it so that it stays."""
    points = _history(vault)
    repository = _open(vault)
    until = datetime.now(UTC) + HOUR
    for name in vault.names():
        body = b"ransom"
        if name.startswith("points/"):
            body = repository.keys.boxes().pack(BoxKind.POINT, name, b'{"version": 1}')
        vault.put_locked(name, body, until)
    assert puller.repair_versions(vault.url, password="x").unreadable == ()
    assert _all_restore(vault, points)
    assert all(
        end is not None and end >= points[name.rpartition("/")[2]][0].locked_until  # type: ignore[operator]
        for name, end in vault.ends().items()
        if name.startswith("points/")
    )


def test_only_what_was_hidden_since_a_time_comes_back(vault: Vault) -> None:
    points = _history(vault)
    repository = _open(vault)
    old = min(points)
    gone, _ = points.pop(old)
    repository.points.delete([(gone.uuid, gone.point)])
    later = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=2)
    vault.wait_until(later)
    vault.delete_all()
    assert vault.names() == []
    puller.repair_versions(vault.url, password="x", since=later)
    assert {point.point for point in _open(vault).points.all()} == points.keys()
    puller.repair_versions(vault.url, password="x")
    assert old in {point.point for point in _open(vault).points.all()}


def test_a_dry_run_counts_and_changes_nothing(vault: Vault) -> None:
    points = _history(vault)
    for name in vault.names("points/"):
        vault.client.delete_object(Bucket=vault.bucket, Key=vault.prefix + name)
    report = puller.repair_versions(vault.url, password="x", dry_run=True)
    assert report.brought_back == {"points/": len(points)}
    assert vault.names("points/") == []


def test_a_store_without_versions_is_refused(tmp_path: object) -> None:
    puller.create_repository(f"{tmp_path}/r", password="x")
    with pytest.raises(puller.UnsupportedByStore, match="only S3 buckets"):
        puller.repair_versions(f"{tmp_path}/r", password="x")


def _put_twice(vault: Vault) -> None:
    """Put each pack once more with its lock, as a put does that is repeated after a lost answer."""
    for name in vault.names("packs/"):
        body = vault.client.get_object(Bucket=vault.bucket, Key=vault.prefix + name)["Body"].read()
        end = vault.end_of(name)
        assert end is not None
        vault.put_locked(name, body, end)


def test_a_put_that_was_repeated_hides_nothing(vault: Vault) -> None:
    """Servers that ignore the condition in buckets with versions then have two versions of the object."""
    points = _history(vault)
    _put_twice(vault)
    assert puller.repair_versions(vault.url, password="x", dry_run=True).count == 0
    later = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=2)
    vault.wait_until(later)
    vault.delete_all()
    puller.repair_versions(vault.url, password="x", since=later)
    assert _all_restore(vault, points)


def test_what_was_put_above_a_locked_forgery_is_not_put_again(vault: Vault) -> None:
    points = _history(vault)
    until = datetime.now(UTC) + HOUR
    for name in vault.names("packs/"):
        vault.client.put_object(
            Bucket=vault.bucket,
            Key=vault.prefix + name,
            Body=b"ransom",
            ObjectLockMode="COMPLIANCE",
            ObjectLockRetainUntilDate=until,
        )
    assert puller.repair_versions(vault.url, password="x").count
    size = vault.size()
    assert puller.repair_versions(vault.url, password="x").count == 0
    assert vault.size() - size < 10_000
    assert _all_restore(vault, points)


def test_objects_of_others_whose_names_begin_alike_are_left_alone(vault: Vault) -> None:
    for name, bodies in (("old", [b"first"]), ("other", [b"first", b"second"])):
        key = f"{vault.prefix}repository.json.{name}"
        for body in bodies:
            vault.client.put_object(Bucket=vault.bucket, Key=key, Body=body)
    vault.client.delete_object(Bucket=vault.bucket, Key=f"{vault.prefix}repository.json.old")
    before = [entry for entry in vault.entries() if "/repository.json." in entry[0]]
    report = puller.repair_versions(vault.url, password="x")
    assert (report.count, report.unreadable) == (0, ())
    assert [entry for entry in vault.entries() if "/repository.json." in entry[0]] == before
