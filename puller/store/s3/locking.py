"""Locks and versions of the objects in a bucket with Object Lock."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from math import ceil
from typing import TYPE_CHECKING, Any, Literal

from botocore.exceptions import ClientError

from puller.errors import StoreDenied, UnsupportedByStore
from puller.store.base import is_key, validate_key
from puller.store.objectlock import LockMode, ObjectLock, ObjectVersion, VersionPage
from puller.store.s3.answers import Refusal
from puller.store.s3.deletion import Failure, Target
from puller.store.s3.errors import translated
from puller.store.s3.quick import time_of

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_NO_LOCK = frozenset({"ObjectLockConfigurationNotFoundError", "NoSuchObjectLockConfiguration"})
_ENABLE = "Create a bucket with Object Lock, or enable it for this one; both also switch versioning on."
_MODES: Mapping[LockMode, Literal["GOVERNANCE", "COMPLIANCE"]] = {
    LockMode.GOVERNANCE: "GOVERNANCE",
    LockMode.COMPLIANCE: "COMPLIANCE",
}


def s3_mode(lock: ObjectLock) -> Literal["GOVERNANCE", "COMPLIANCE"]:
    """Return S3's word for the mode."""
    return _MODES[lock.mode]


def s3_date(lock: ObjectLock) -> datetime:
    """Return the end in whole seconds, all that servers keep, and never earlier."""
    return datetime.fromtimestamp(ceil(lock.until), UTC)


Delete = Callable[[Sequence[Target]], Sequence[Failure]]
Reading = Callable[[str, str], AbstractContextManager[None]]
"""A context for a request that reads; it gets the action and the object's key."""


class S3Locks:
    """See ``puller.store.objectlock.Locks``. The repository has the prefix ``root`` in the bucket."""

    possible = True

    def __init__(  # noqa: PLR0913, PLR0917 - what a store knows of its place
        self,
        client: S3Client,
        bucket: str,
        root: str,
        place: str,
        by_proxy: bool,
        delete: Delete,
        reading: Reading,
    ) -> None:
        self._client = client
        self._bucket = bucket
        self._root = root
        self._place = place
        self._by_proxy = by_proxy
        self._delete = delete
        self._reading = reading

    def require(self) -> None:
        """See ``Locks.require``."""
        with self._doing("cannot read the Object Lock configuration"):
            is_on = self._is_on()
        if not is_on:
            raise UnsupportedByStore(
                f"cannot lock objects in {self._place}: it has no Object Lock", advice=_ENABLE
            )

    def _is_on(self) -> bool:
        try:
            answer: Mapping[str, Any] = self._client.get_object_lock_configuration(Bucket=self._bucket)
        except ClientError as error:
            if Refusal.of(error).code in _NO_LOCK:
                return False
            raise
        return (answer.get("ObjectLockConfiguration") or {}).get("ObjectLockEnabled") == "Enabled"

    def now(self) -> float:
        """See ``Locks.now``: the date of an answer, whether it is an error or not."""
        with self._doing("cannot learn the store's time"):
            try:
                answer: Mapping[str, Any] = self._client.head_object(
                    Bucket=self._bucket, Key=f"{self._root}repository.json"
                )
            except ClientError as error:
                if Refusal.of(error).status >= 500:
                    raise
                answer = error.response
        headers: Mapping[str, str] = (answer.get("ResponseMetadata") or {}).get("HTTPHeaders") or {}
        try:
            return time_of(headers["date"]).timestamp()
        except (KeyError, ValueError) as error:
            raise UnsupportedByStore(
                f"cannot learn the time of {self._place}: its answers have no date",
                advice="Use a server, or a proxy, that dates its answers.",
            ) from error

    def lock_of(self, key: str, version: str | None = None) -> ObjectLock | None:
        """See ``Locks.lock_of``. Without ``s3:GetObjectRetention``, an object seems to have no lock."""
        action = f"cannot look up {key}"
        with self._reading(action, key) if version is None else self._doing(action):
            answer: Mapping[str, Any] = self._client.head_object(**self._request(key, version))
        mode, until = answer.get("ObjectLockMode"), answer.get("ObjectLockRetainUntilDate")
        if mode is None or until is None:
            return None
        return ObjectLock(LockMode(mode.lower()), until.timestamp())

    def extend(self, key: str, lock: ObjectLock, version: str | None = None) -> None:
        """See ``Locks.extend``."""
        retention: Any = {"Mode": s3_mode(lock), "RetainUntilDate": s3_date(lock)}
        try:
            with self._doing(f"cannot lock {key}"):
                self._client.put_object_retention(**self._request(key, version), Retention=retention)
        except StoreDenied as error:
            raise StoreDenied(
                error.message, advice="Allow s3:PutObjectRetention in the credentials' policy."
            ) from error

    def page(self, prefix: str, after: tuple[str, str] | None = None) -> VersionPage:
        """See ``Locks.page``."""
        more: Any = {}
        if after is not None:
            more = {"KeyMarker": self._root + after[0], "VersionIdMarker": after[1]}
        more = {name: value for name, value in more.items() if value}
        with self._doing(f"cannot list the versions of {prefix or 'objects'}"):
            answer = self._client.list_object_versions(
                Bucket=self._bucket, Prefix=self._root + prefix, **more
            )
        found = [self._version(entry, False) for entry in answer.get("Versions") or ()]
        found += [self._version(entry, True) for entry in answer.get("DeleteMarkers") or ()]
        following = None
        if answer.get("IsTruncated"):
            key = (answer.get("NextKeyMarker") or "").removeprefix(self._root)
            following = key, answer.get("NextVersionIdMarker") or ""
            if not key or following == after:
                raise UnsupportedByStore(
                    f"cannot list the versions in {self._place}: the server does not say how to go on"
                )
        return VersionPage(tuple(item for item in found if is_key(item.key)), following)

    def _version(self, entry: Mapping[str, Any], is_marker: bool) -> ObjectVersion:
        return ObjectVersion(
            (entry.get("Key") or "").removeprefix(self._root),
            entry.get("VersionId") or "null",
            int(entry.get("Size") or 0),
            entry["LastModified"].timestamp(),
            is_marker,
            bool(entry.get("IsLatest")),
            str(entry.get("ETag") or ""),
        )

    def get_tail(self, key: str, version: str, length: int) -> bytes:
        """See ``Locks.get_tail``. Reads all of the version if the server does not answer with a part."""
        with self._doing(f"cannot read a version of {key}"):
            answer = self._client.get_object(**self._request(key, version), Range=f"bytes=-{length}")
            return answer["Body"].read()[-length:]

    def delete(self, versions: Sequence[ObjectVersion]) -> tuple[ObjectVersion, ...]:
        """See ``Locks.delete``. Never asks to bypass a lock."""
        targets = {Target(self._key(item.key), item.version): item for item in versions}
        refused = set()
        try:
            failures = self._delete(tuple(targets)) if targets else ()
        except StoreDenied:
            return tuple(versions)
        for target, error in failures:
            if not isinstance(error, StoreDenied):
                raise error
            refused.add(target)
        # An answer may leave out the version: then no version of this name is known to be gone.
        return tuple(item for target, item in targets.items() if {target, Target(target.name)} & refused)

    def _key(self, key: str) -> str:
        return self._root + validate_key(key)

    def _request(self, key: str, version: str | None) -> Any:
        request = {"Bucket": self._bucket, "Key": self._key(key)}
        return request if version is None else request | {"VersionId": version}

    def _doing(self, action: str) -> AbstractContextManager[None]:
        return translated(f"{action} in {self._place}", self._by_proxy)
