"""Doctor on a real S3 server: each planted fault of the store is found, with advice, and nothing else."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from botocore.config import Config

import puller
from puller.cancelling import RetryPolicy
from puller.diagnosis.doctor import Examination, doctor
from puller.diagnosis.finding import Finding, Status
from puller.diagnosis.store import examine
from puller.errors import StoreDenied, WrongKey
from puller.repository.format.descriptor import NAME
from puller.store.base import Body, ObjectInfo, Store
from puller.store.directory.folder import FolderStore
from puller.store.s3.client.client import make_client
from puller.store.s3.s3 import S3Store
from tests.lab.seaweed import Seaweed

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PREFIX = "kvm"


@pytest.fixture(scope="module")
def client(seaweed: Seaweed) -> Iterator[S3Client]:
    """puller's own client, with all rights."""
    with pytest.MonkeyPatch.context() as patch:
        seaweed.use(patch)
        yield make_client()


@pytest.fixture
def bucket(client: S3Client, request: pytest.FixtureRequest) -> str:
    name = f"doctor-{abs(hash(request.node.nodeid)):x}"
    client.create_bucket(Bucket=name, ObjectLockEnabledForBucket="lock" in request.node.name)
    S3Store(client, name, PREFIX).put(NAME, b"the descriptor of a repository")
    return name


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    FolderStore(tmp_path).put(NAME, b"the descriptor of a repository")
    return tmp_path


def found(store: Store, **choices: Any) -> dict[str, str]:
    """By name: the status of what is not ok. Each has one sentence of advice."""
    faults = [check for check in examine(store, **choices) if check.status is not Status.OK]
    assert all(check.advice.endswith(".") and check.text for check in faults)
    return {check.name: check.status.value for check in faults}


def deny(client: S3Client, bucket: str, action: str) -> None:
    statement = {
        "Effect": "Deny",
        "Principal": "*",
        "Action": action,
        "Resource": [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"],
    }
    policy = {"Version": "2012-10-17", "Statement": [statement]}
    client.put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))


def rule(client: S3Client, bucket: str, prefix: str, **what: Any) -> None:
    entry: Any = {"ID": "planted", "Status": "Enabled", "Filter": {"Prefix": prefix}, **what}
    client.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": [entry]})


def test_a_sound_bucket_has_no_fault_and_nothing_is_left_in_it(client: S3Client, bucket: str) -> None:
    checks = list(examine(S3Store(client, bucket, PREFIX)))
    assert {check.status for check in checks} == {Status.OK}
    assert [check.name for check in checks] == [
        *("store", "list", "delete", "put", "get", "conditional-writes", "clock"),
        *("versioning", "object-lock", "lifecycle", "differences"),
    ]
    assert client.list_objects_v2(Bucket=bucket)["KeyCount"] == 1


def test_nothing_is_put_where_there_is_no_repository(tmp_path: Path) -> None:
    checks = list(examine(FolderStore(tmp_path / "slip")))
    assert [check.name for check in checks] == ["store"]
    assert not (tmp_path / "slip").exists()


def test_a_store_that_is_slow(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("puller.diagnosis.store.SLOW", 0.0)
    assert found(FolderStore(folder)) == {"store": "warn"}


def test_no_bucket(client: S3Client) -> None:
    assert found(S3Store(client, "there-is-none", PREFIX)) == {"store": "fail"}


def test_wrong_credentials(client: S3Client, seaweed: Seaweed, bucket: str, monkeypatch: Any) -> None:
    seaweed.use(monkeypatch)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    faults = {"list": "fail", "delete": "fail", "put": "warn", "get": "warn"}
    assert found(S3Store(make_client(), bucket, PREFIX)) == faults


def test_missing_credentials_are_not_taken_for_a_missing_right(
    seaweed: Seaweed, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seaweed.use(monkeypatch)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    checks = examine(S3Store(make_client(), bucket, PREFIX))
    faults = {check.name: check.advice for check in checks if check.status is Status.FAIL}
    advice = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE."
    assert faults == {"list": advice, "delete": advice}


def test_a_server_that_is_down(seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> None:
    seaweed.use(monkeypatch)
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{holder.getsockname()[1]}")
        once = make_client(Config(retries={"total_max_attempts": 1}))
        assert found(S3Store(once, "bucket", PREFIX)) == {"store": "fail"}


@pytest.mark.parametrize(
    ("action", "faults"),
    [
        ("s3:PutObject", {"put": "fail"}),
        ("s3:GetObject", {"get": "fail"}),
        ("s3:ListBucket", {"list": "fail"}),
    ],
)
def test_a_right_that_is_denied(client: S3Client, bucket: str, action: str, faults: dict[str, str]) -> None:
    deny(client, bucket, action)
    assert found(S3Store(client, bucket, PREFIX)) == faults


def test_where_deletion_is_denied_one_object_a_day_stays(folder: Path) -> None:
    """SeaweedFS lets DeleteObjects through whatever the bucket's policy says, so a folder stands in."""

    class AppendOnly(FolderStore):
        def delete(self, keys: object) -> None:
            raise StoreDenied("deletion is denied")

    for _ in range(2):
        assert found(AppendOnly(folder)) == {"delete": "warn"}
    kept = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert kept == {NAME, f"pending/doctor-{time.strftime('%Y%m%d', time.gmtime())}"}


def test_a_role_that_may_delete_its_announcements_only_leaves_nothing(folder: Path) -> None:
    """As docs/operations.md gives rights to who backs up."""

    class BackupOnly(FolderStore):
        def delete(self, keys: Iterable[str]) -> None:
            names = list(keys)
            if not all(name.startswith("pending/") for name in names):
                raise StoreDenied("deletion is denied")
            super().delete(names)

        def put(self, key: str, body: Body) -> None:
            if not key.startswith("pending/"):
                raise StoreDenied("storing is denied")
            super().put(key, body)

    assert found(BackupOnly(folder)) == {"delete": "warn"}
    assert [path.name for path in folder.rglob("*") if path.is_file()] == [NAME]


def test_a_repository_that_can_only_be_read_is_not_well(folder: Path) -> None:
    class ReadOnly(FolderStore):
        def delete(self, keys: object) -> None:
            raise StoreDenied("deletion is denied")

        def put(self, key: str, body: Body) -> None:
            raise StoreDenied("storing is denied", advice="Let this user write to the directory.")

        put_new = put

    assert found(ReadOnly(folder)) == {"delete": "warn", "put": "fail"}
    assert not [check for check in examine(ReadOnly(folder)) if "s3:" in check.advice]


def test_a_store_that_falls_silent_is_asked_nothing_more(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Silent(FolderStore):
        asked: ClassVar[list[str]] = []

        def put_new(self, key: str, body: Body) -> None:
            self.asked.append(key)
            threading.Event().wait()

    monkeypatch.setattr("puller.cancelling.PROMPT", RetryPolicy(0.1))
    monkeypatch.setattr("puller.store.wrapping.retrying.WAKING", 0.1)
    store = Silent(folder)
    assert found(store) == {"put": "fail"}
    assert len(store.asked) == 1


def test_a_bucket_that_keeps_versions_for_ever(client: S3Client, bucket: str) -> None:
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    assert found(S3Store(client, bucket, PREFIX)) == {"versioning": "warn"}
    rule(client, bucket, "", NoncurrentVersionExpiration={"NoncurrentDays": 7})
    assert found(S3Store(client, bucket, PREFIX)) == {}


def test_versions_that_prune_removes_are_no_waste(client: S3Client, bucket: str) -> None:
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    store = S3Store(client, bucket, PREFIX)
    store.put("locking/0123456789abcdef", b"a policy of locks")
    assert found(store) == {}


def test_a_lock_by_default_retention(client: S3Client, bucket: str) -> None:
    rule(client, bucket, "", NoncurrentVersionExpiration={"NoncurrentDays": 7})
    assert found(S3Store(client, bucket, PREFIX)) == {}
    retention: Any = {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 3}}
    client.put_object_lock_configuration(
        Bucket=bucket, ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": retention}
    )
    (check,) = [item for item in examine(S3Store(client, bucket, PREFIX)) if item.status is not Status.OK]
    assert (check.name, check.status) == ("object-lock", Status.WARN)
    assert "GOVERNANCE, 3 days" in check.text


@pytest.mark.parametrize(
    ("prefix", "faults"),
    [("", {"lifecycle": "fail"}), ("kvm/packs/", {"lifecycle": "fail"}), ("logs/", {}), ("kvm2/", {})],
)
def test_a_lifecycle_rule_that_deletes_by_age(
    client: S3Client, bucket: str, prefix: str, faults: dict[str, str]
) -> None:
    rule(client, bucket, prefix, Expiration={"Days": 30})
    assert found(S3Store(client, bucket, PREFIX)) == faults


@pytest.mark.parametrize(("ahead", "faults"), [(-90, {"clock": "warn"}), (90, {"clock": "warn"}), (20, {})])
def test_a_clock_that_is_wrong(folder: Path, ahead: int, faults: dict[str, str]) -> None:
    class Elsewhere(FolderStore):
        def stat(self, key: str) -> ObjectInfo:
            info = super().stat(key)
            return ObjectInfo(info.key, info.size, info.modified + ahead, info.etag)

    assert found(Elsewhere(folder)) == faults


def test_conditions_that_are_not_honoured(folder: Path) -> None:
    class Careless(FolderStore):
        def put_new(self, key: str, body: Body) -> None:
            self.put(key, body)

    assert found(Careless(folder)) == {"conditional-writes": "warn"}


def examined(url: str, opener: Callable[[], puller.Repository]) -> list[Finding]:
    """What is not ok, where libvirt is not there to be asked."""
    unreachable = Examination("qemu+unix:///system?socket=/nonexistent")
    checks = doctor(FolderStore(Path(url)), opener, unreachable)
    return [check for check in checks if check.status is not Status.OK and check.name != "connection"]


def test_no_repository_and_a_wrong_password(tmp_path: Path) -> None:
    url = str(tmp_path / "repository")
    opener = partial(puller.open_repository, url, password="wrong")
    (missing,) = examined(url, opener)
    assert (missing.name, missing.status) == ("repository", Status.FAIL)
    assert "puller init" in missing.advice
    puller.create_repository(url, password="night")
    (wrong,) = examined(url, opener)
    assert (wrong.name, wrong.status, wrong.advice) == ("repository", Status.FAIL, WrongKey.default_advice)
