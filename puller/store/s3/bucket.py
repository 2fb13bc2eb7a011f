"""Settings of a bucket that matter to a repository: versioning, Object Lock, lifecycle rules.

Each query needs a permission (``s3:GetBucketVersioning``, ``s3:GetBucketObjectLockConfiguration``,
``s3:GetLifecycleConfiguration``) that a backup does not need, and some servers support none of them: the
queries then raise StoreDenied or UnsupportedByStore.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from puller.store.s3.answers import Refusal
from puller.store.s3.differences import Differences
from puller.store.s3.errors import translated

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import LifecycleRuleOutputTypeDef

_NOT_SET = frozenset({"ObjectLockConfigurationNotFoundError", "NoSuchLifecycleConfiguration"})

_ARCHIVES = frozenset({"GLACIER", "DEEP_ARCHIVE"})
"""Storage classes whose objects cannot be read before a restore; GLACIER_IR is not among them."""


@dataclass(frozen=True, slots=True)
class LifecycleRule:
    """An enabled rule that reaches the repository's objects. ``name`` is its ID.

    ``expires``: it deletes current objects. ``archives``: it moves them where they cannot be read.
    ``drops_versions``: it deletes versions that were replaced or deleted.
    """

    name: str
    expires: bool
    archives: bool
    drops_versions: bool


class Bucket:
    """A bucket; the repository has the ``prefix`` in it (empty, or ending in ``/``).

    ``differences`` are those of its server that were met.
    """

    def __init__(
        self, client: S3Client, name: str, prefix: str, place: str, differences: Differences
    ) -> None:
        self._client = client
        self._name = name
        self._prefix = prefix
        self._place = place
        self.differences = differences

    def keeps_versions(self) -> bool:
        """Return whether deleted and replaced objects stay as versions. Raises StoreError."""
        with translated(f"cannot read the versioning of {self._place}"):
            answer = self._client.get_bucket_versioning(Bucket=self._name)
        return answer.get("Status") == "Enabled"

    def serves_range_if(self, key: str, etag: str) -> bool:
        """Return whether a ranged read of ``key`` with ``If-Match`` is answered. Raises StoreError."""
        with translated(f"cannot read a part of {key} in {self._place}"):
            try:
                answer = self._client.get_object(
                    Bucket=self._name, Key=self._prefix + key, Range="bytes=0-0", IfMatch=etag
                )
            except ClientError as error:
                if Refusal.of(error).status == 412:
                    return False
                raise
            answer["Body"].close()
        return True

    def default_retention(self) -> str | None:
        """Return Object Lock's default retention, such as ``GOVERNANCE, 3 days``. Raises StoreError."""
        with translated(f"cannot read the Object Lock configuration of {self._place}"):
            try:
                answer = self._client.get_object_lock_configuration(Bucket=self._name)
            except ClientError as error:
                if Refusal.of(error).code in _NOT_SET:
                    return None
                raise
        rule = (answer.get("ObjectLockConfiguration") or {}).get("Rule") or {}
        retention = rule.get("DefaultRetention") or {}
        for unit in ("Days", "Years"):
            if count := retention.get(unit):
                return f"{retention.get('Mode')}, {count} {unit.lower()}"
        return None

    def lifecycle(self) -> tuple[LifecycleRule, ...]:
        """Return the rules that apply to the repository's prefix. Raises StoreError."""
        with translated(f"cannot read the lifecycle rules of {self._place}"):
            try:
                answer = self._client.get_bucket_lifecycle_configuration(Bucket=self._name)
            except ClientError as error:
                if Refusal.of(error).code in _NOT_SET:
                    return ()
                raise
        return tuple(parse_rule(rule) for rule in answer.get("Rules") or () if reaches(rule, self._prefix))


def reaches(rule: LifecycleRuleOutputTypeDef, prefix: str) -> bool:
    """Return whether an enabled ``rule`` can apply to objects below ``prefix``; ours have no tags."""
    scope = rule.get("Filter") or {}
    both = scope.get("And") or {}
    if rule.get("Status") != "Enabled" or "Tag" in scope or both.get("Tags"):
        return False
    start = both.get("Prefix") or scope.get("Prefix") or rule.get("Prefix") or ""
    return start.startswith(prefix) or prefix.startswith(start)


def parse_rule(rule: LifecycleRuleOutputTypeDef) -> LifecycleRule:
    """Parse a rule."""
    expiration = rule.get("Expiration") or {}
    return LifecycleRule(
        rule.get("ID") or "without a name",
        expires="Days" in expiration or "Date" in expiration,
        archives=any(item.get("StorageClass") in _ARCHIVES for item in rule.get("Transitions") or ()),
        drops_versions="NoncurrentVersionExpiration" in rule,
    )
