"""Deletions: many in one request, or one by one where the server refuses that."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from puller.cancelling import CancelScope
from puller.errors import ObjectNotFound, StoreError, StoreUnavailable
from puller.store.parallel import each
from puller.store.s3.differences import ONE_BY_ONE, Differences
from puller.store.s3.errors import refuses_batches, translate_code, translated

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import ObjectIdentifierTypeDef

BATCH = 1000
"""Keys in one DeleteObjects request: the limit of the S3 API."""

_THREADS = 8


class Deletions:
    """Deletions of objects in ``bucket``, by their whole names."""

    def __init__(
        self, client: S3Client, bucket: str, differences: Differences, place: str, by_proxy: bool
    ) -> None:
        self._client = client
        self._bucket = bucket
        self._differences = differences
        self._action = f"cannot delete objects in {place}"
        self._by_proxy = by_proxy

    def delete(self, scope: CancelScope, names: Sequence[str]) -> Sequence[StoreError]:
        """Delete at most a ``BATCH``; return the failures of single objects. Raises StoreError."""
        if self._differences.met(ONE_BY_ONE):
            return self._delete_singly(scope, names)
        try:
            return self._delete_together(names)
        except StoreError as error:
            if not isinstance(error.__cause__, ClientError) or not refuses_batches(error.__cause__):
                raise
            failures = self._delete_singly(scope, names)
            if len(failures) == len(names):  # the deletion is refused, not its form
                raise
        self._differences.note(ONE_BY_ONE)
        return failures

    def _delete_together(self, names: Iterable[str]) -> Sequence[StoreError]:
        objects: Sequence[ObjectIdentifierTypeDef] = [{"Key": name} for name in names]
        with translated(self._action, self._by_proxy):
            answer = self._client.delete_objects(
                Bucket=self._bucket, Delete={"Objects": objects, "Quiet": True}
            )
        return [
            translate_code(
                failure.get("Code") or "",
                failure.get("Message") or "",
                f"{self._action}: {failure.get('Key')}",
            )
            for failure in answer.get("Errors") or ()
            if failure.get("Code") != "NoSuchKey"
        ]

    def _delete_singly(self, scope: CancelScope, names: Sequence[str]) -> Sequence[StoreError]:
        def delete(_: CancelScope, name: str) -> StoreError | None:
            failure = self._delete_one(name)
            scope.note_progress()
            return failure

        return [failure for failure in each(scope, delete, names, _THREADS) if failure is not None]

    def _delete_one(self, name: str) -> StoreError | None:
        try:
            with translated(f"{self._action}: {name}", self._by_proxy):
                self._client.delete_object(Bucket=self._bucket, Key=name)
        except ObjectNotFound:
            return None
        except StoreUnavailable:
            raise
        except StoreError as error:
            return error
        return None
