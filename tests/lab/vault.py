"""A bucket with Object Lock, and what its administrator, or a thief of all credentials, can do to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from botocore.exceptions import ClientError

from tests.lab.s3server import S3Server

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


class Vault:
    """Everything below ``prefix`` in a bucket with Object Lock, accessed without puller's own code."""

    def __init__(self, client: S3Client, bucket: str, prefix: str = "") -> None:
        self.client = client
        self.bucket = bucket
        self.prefix = prefix

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    def make(self) -> None:
        self.client.create_bucket(Bucket=self.bucket, ObjectLockEnabledForBucket=True)

    def entries(self) -> Iterator[tuple[str, str, bool]]:
        """Key, version and whether it is a delete marker, of everything."""
        pages = self.client.get_paginator("list_object_versions").paginate(
            Bucket=self.bucket, Prefix=self.prefix
        )
        for page in pages:
            for entry in page.get("Versions") or ():
                yield entry["Key"], entry["VersionId"], False
            for marker in page.get("DeleteMarkers") or ():
                yield marker["Key"], marker["VersionId"], True

    def names(self, folder: str = "") -> list[str]:
        """What a plain listing shows, without the prefix."""
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=self.prefix + folder
        )
        return [
            entry["Key"].removeprefix(self.prefix) for page in pages for entry in page.get("Contents") or ()
        ]

    def size(self) -> int:
        """Bytes of all versions."""
        pages = self.client.get_paginator("list_object_versions").paginate(
            Bucket=self.bucket, Prefix=self.prefix
        )
        return sum(entry["Size"] for page in pages for entry in page.get("Versions") or ())

    def end_of(self, name: str) -> datetime | None:
        """When the lock of the current version ends."""
        try:
            answer = self.client.get_object_retention(Bucket=self.bucket, Key=self.prefix + name)
        except ClientError:
            return None
        return answer["Retention"]["RetainUntilDate"].astimezone(UTC)

    def put_locked(self, name: str, body: bytes, until: datetime) -> None:
        """Put a version that nobody can delete before ``until``."""
        self.client.put_object(
            Bucket=self.bucket,
            Key=self.prefix + name,
            Body=body,
            ObjectLockMode="COMPLIANCE",
            ObjectLockRetainUntilDate=until,
        )

    def ends(self) -> dict[str, datetime | None]:
        return {name: self.end_of(name) for name in self.names()}

    def wait_until(self, moment: datetime) -> None:
        """Wait until the store gives objects this time: its clock is the one that counts."""
        while True:
            self.client.put_object(Bucket=self.bucket, Key="clock", Body=b"x")
            if self.client.head_object(Bucket=self.bucket, Key="clock")["LastModified"] >= moment:
                return

    def delete_all(self, bypass: bool = False) -> int:
        """Put a delete marker over everything, and delete all unlocked versions. Return how many are left."""
        for name in self.names():
            self.client.delete_object(Bucket=self.bucket, Key=self.prefix + name)
        for key, version, is_marker in list(self.entries()):
            if not is_marker:
                self.try_delete(key, version, bypass)
        return sum(not is_marker for _, _, is_marker in self.entries())

    def try_delete(self, key: str, version: str, bypass: bool = False) -> bool:
        more: Any = {"BypassGovernanceRetention": True} if bypass else {}
        try:
            self.client.delete_object(Bucket=self.bucket, Key=key, VersionId=version, **more)
        except ClientError as error:
            assert error.response["Error"]["Code"] == "AccessDenied"
            return False
        return True


@pytest.fixture(scope="session", params=["seaweed", "ceph"])
def locking_server(request: pytest.FixtureRequest, servers: Callable[[str], S3Server]) -> S3Server:
    """Return each server with Object Lock in turn, with a bucket for vaults."""
    server = servers(request.param)
    client = server.client()
    with suppress(client.exceptions.BucketAlreadyOwnedByYou):  # pytest may come back to a server
        Vault(client, "vaults").make()
    return server


@pytest.fixture
def empty_vault(locking_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Vault:
    """Return a place in a bucket with Object Lock, which puller finds."""
    locking_server.use(monkeypatch)
    return Vault(locking_server.client(), "vaults", f"{uuid4().hex}/")
