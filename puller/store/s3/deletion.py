"""Deletions: many in one request, or one by one if the server refuses that."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

from botocore.exceptions import ClientError

from puller.cancelling import CancelScope
from puller.errors import ObjectNotFound, StoreError, StoreUnavailable
from puller.store.parallel import each
from puller.store.s3.differences import ONE_BY_ONE, Differences
from puller.store.s3.errors import refuses_batches, translate_code, translated

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

BATCH = 1000
"""Keys in one DeleteObjects request: the limit of the S3 API."""

_THREADS = 8
_GONE = frozenset({"NoSuchKey", "NoSuchVersion"})


class Target(NamedTuple):
    """The whole name of an object, and the version if only that one is to be deleted."""

    name: str
    version: str | None = None


Failure = tuple[Target, StoreError]


class Deletions:
    """Deletions of objects in ``bucket``."""

    def __init__(
        self, client: S3Client, bucket: str, differences: Differences, place: str, by_proxy: bool
    ) -> None:
        self._client = client
        self._bucket = bucket
        self._differences = differences
        self._action = f"cannot delete objects in {place}"
        self._by_proxy = by_proxy

    def delete(self, scope: CancelScope, targets: Sequence[Target]) -> Sequence[Failure]:
        """Delete at most ``BATCH`` objects; return those that could not be deleted, with the reasons. Raises
        StoreError."""
        if self._differences.met(ONE_BY_ONE):
            return self._delete_singly(scope, targets)
        try:
            return self._delete_together(targets)
        except StoreError as error:
            if not isinstance(error.__cause__, ClientError) or not refuses_batches(error.__cause__):
                raise
            failures = self._delete_singly(scope, targets)
            if len(failures) == len(targets):  # the deletion is refused, not its form
                raise
        self._differences.note(ONE_BY_ONE)
        return failures

    def _delete_together(self, targets: Iterable[Target]) -> Sequence[Failure]:
        objects: Any = [_parameters(target) for target in targets]
        with translated(self._action, self._by_proxy):
            answer = self._client.delete_objects(
                Bucket=self._bucket, Delete={"Objects": objects, "Quiet": True}
            )
        return [
            self._failure(failure)
            for failure in answer.get("Errors") or ()
            if failure.get("Code") not in _GONE
        ]

    def _failure(self, failure: Mapping[str, Any]) -> Failure:
        code, message, name = (failure.get(field) or "" for field in ("Code", "Message", "Key"))
        error = translate_code(code, message, f"{self._action}: {name}")
        return Target(name, failure.get("VersionId")), error

    def _delete_singly(self, scope: CancelScope, targets: Sequence[Target]) -> Sequence[Failure]:
        def delete(_: CancelScope, target: Target) -> StoreError | None:
            failure = self._delete_one(target)
            scope.note_progress()
            return failure

        failures = each(scope, delete, targets, _THREADS)
        return [pair for pair in zip(targets, failures, strict=True) if _is_failure(pair)]

    def _delete_one(self, target: Target) -> StoreError | None:
        try:
            with translated(f"{self._action}: {target.name}", self._by_proxy):
                self._client.delete_object(Bucket=self._bucket, **_parameters(target))
        except ObjectNotFound:
            return None
        except StoreUnavailable:
            raise
        except StoreError as error:
            return error
        return None


def _is_failure(pair: tuple[Target, StoreError | None]) -> TypeGuard[Failure]:
    return pair[1] is not None


def _parameters(target: Target) -> Any:
    return {"Key": target.name} | ({} if target.version is None else {"VersionId": target.version})
