"""A store in an S3 bucket, on AWS or any compatible server."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from copy import copy  # noqa: TID251 - of what has its __dict__
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, Self
from urllib.parse import urlsplit

from botocore.exceptions import ClientError, HTTPClientError, IncompleteReadError
from botocore.utils import get_environ_proxies
from urllib3.exceptions import HTTPError

from puller.cancelling import Scoped
from puller.errors import (
    NoBucket,
    ObjectChanged,
    ObjectNotFound,
    StoreDenied,
    StoreError,
    UnsupportedByStore,
)
from puller.store.base import (
    Body,
    ObjectInfo,
    check_size,
    is_key,
    validate_key,
    validate_prefix,
    validate_range,
)
from puller.store.objectlock import Locks, ObjectLock
from puller.store.s3.answers import info_of, read_bounded, whole_size
from puller.store.s3.body import HeardBody, is_announced, upload_body
from puller.store.s3.bucket import Bucket
from puller.store.s3.errors import (
    demands_checksum,
    is_beyond_end,
    rejects_expectation,
    translate_code,
    translated,
)
from puller.store.s3.locking import S3Locks, s3_date, s3_mode

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import (
        GetObjectOutputTypeDef,
        GetObjectRequestTypeDef,
        ListObjectsV2OutputTypeDef,
        ObjectIdentifierTypeDef,
        PutObjectRequestTypeDef,
    )

DELETE_BATCH = 1000
"""Keys in one DeleteObjects request: the limit of the S3 API."""

READ_ATTEMPTS = 3
"""Attempts to read a body: botocore retries requests, but not once the body has begun."""

_BROKEN_BODY = (HTTPClientError, IncompleteReadError, HTTPError)


class _Way(NamedTuple):
    """Form of a put: announced with ``Expect: 100-continue``, with a checksum."""

    expects: bool = True
    with_checksum: bool = False


class S3Store(Scoped):
    """Objects in ``bucket`` under ``prefix`` (no slash at its ends, may be empty).

    ``client`` comes from ``puller.store.s3.client.connect``. Keys and bodies are sent as they are, in
    one request each. Multipart uploads are not needed: all objects are far below the limit of one PUT.
    """

    def __init__(self, client: S3Client, bucket: str, prefix: str) -> None:
        self._client = client
        self._bucket = bucket
        self._root = f"{prefix}/" if prefix else ""
        self.endpoint = _without_user(client.meta.endpoint_url)
        self._place = f"bucket {bucket} at {self.endpoint}"
        self._by_proxy = bool(get_environ_proxies(self.endpoint))
        self._ways = [_Way()]
        """The form that the server requires, as far as known; shared by all copies of this store."""
        self._lock: ObjectLock | None = None

    @property
    def url(self) -> str:
        """``s3://bucket/prefix``."""
        return f"s3://{self._bucket}/{self._root}".rstrip("/")

    def locking(self, lock: ObjectLock) -> Self:
        """See ``Store.locking``."""
        bound = copy(self)
        bound._lock = lock
        return bound

    @property
    def locks(self) -> Locks:
        """See ``Store.locks``."""
        return S3Locks(self._client, self._bucket, self._root, self._place, self._by_proxy)

    @property
    def bucket(self) -> Bucket:
        """Return the bucket, whose settings can be queried."""
        return Bucket(self._client, self._bucket, self._root, self._place)

    def get(self, key: str, *, max_size: int | None = None) -> bytes:
        """See ``Store.get``."""
        request = self._request(key)
        with self._doing(f"cannot read {key}"):
            content, _ = self._fetch(key, request, max_size)
        check_size(key, len(content), max_size)
        return content

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """See ``Store.get_range``."""
        validate_range(offset, length)
        request = self._request(key)
        request["Range"] = f"bytes={offset}-{offset + length - 1}"
        with self._doing(f"cannot read {key}"):
            try:
                return self._fetch_range(key, request, length)[0]
            except ClientError as error:
                if not is_beyond_end(error):
                    raise
                return b""

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """See ``Store.get_ranges``: a request for each, as S3 answers with one range."""
        return [self.get_range(key, offset, length) for offset, length in ranges]

    def get_tail(self, key: str, length: int) -> tuple[bytes, ObjectInfo]:
        """See ``Store.get_tail``. One request, or two for an empty object, which has no last byte."""
        validate_range(0, length)
        request = self._request(key)
        request["Range"] = f"bytes=-{length}"
        with self._doing(f"cannot read {key}"):
            try:
                content, answer = self._fetch_range(key, request, length)
                return content, info_of(key, whole_size(answer), answer, self._place)
            except ClientError as error:
                if not is_beyond_end(error):
                    raise
        return b"", self._stat_empty(key)

    def put(self, key: str, body: Body) -> None:
        """See ``Store.put``."""
        request: PutObjectRequestTypeDef = {"Bucket": self._bucket, "Key": self._key(key)}
        with self._doing(f"cannot store {key}"):
            self._store(request, body)

    def put_new(self, key: str, body: Body) -> None:
        """See ``Store.put_new``.

        S3 answers 409 ConditionalRequestConflict if the key is deleted during the put: that is
        ``StoreUnavailable``, because a retry helps.
        """
        request: PutObjectRequestTypeDef = {"Bucket": self._bucket, "Key": self._key(key), "IfNoneMatch": "*"}
        with self._doing(f"cannot store {key}"):
            self._store(request, body)

    def stat(self, key: str) -> ObjectInfo:
        """See ``Store.stat``."""
        name = self._key(key)
        try:
            with self._doing(f"cannot look up {key}"):
                answer = self._client.head_object(Bucket=self._bucket, Key=name)
        except ObjectNotFound:
            self._require_bucket()
            raise
        return info_of(key, answer.get("ContentLength"), answer, self._place)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See ``Store.list``. Requests the next page when the one before is used up."""
        validate_prefix(prefix)
        return (info for page in self._pages(prefix) for info in self._infos(page))

    def delete(self, keys: Iterable[str]) -> None:
        """See ``Store.delete``."""
        rest = iter(keys)
        failures: list[StoreError] = []
        while batch := tuple(islice(rest, DELETE_BATCH)):
            failures += self._delete(batch)
        if failures:
            raise failures[0]

    def _key(self, key: str) -> str:
        return self._root + validate_key(key)

    def _request(self, key: str) -> GetObjectRequestTypeDef:
        return {"Bucket": self._bucket, "Key": self._key(key)}

    def _doing(self, action: str) -> AbstractContextManager[None]:
        return translated(f"{action} in {self._place}", self._by_proxy)

    def _fetch(
        self, key: str, request: GetObjectRequestTypeDef, limit: int | None
    ) -> tuple[bytes, GetObjectOutputTypeDef]:
        """Return the body, at most one byte over ``limit``, and the answer."""
        for attempt in range(1, READ_ATTEMPTS + 1):
            answer = self._client.get_object(**request)
            try:
                return self._read(key, answer, limit, "Range" in request), answer
            except _BROKEN_BODY:
                if attempt == READ_ATTEMPTS:
                    raise
        raise AssertionError("the last attempt returns or raises")

    def _read(self, key: str, answer: GetObjectOutputTypeDef, limit: int | None, part: bool) -> bytes:
        """Raise UnsupportedByStore before the body is read if the answer to a ranged read is not a range."""
        announced = answer.get("ContentLength")
        with closing(
            HeardBody(answer["Body"], self.scope.note_progress)
        ) as body:  # the unread rest is dropped with its connection
            if part and whole_size(answer) is None:
                raise self._no_part(key, "with the whole")
            if not part:
                check_size(key, announced or 0, limit)
            elif limit is not None and (announced or 0) > limit:
                raise self._no_part(key, f"with {announced} bytes instead of {limit}")
            return read_bounded(body, announced, limit)

    def _no_part(self, key: str, instead: str) -> UnsupportedByStore:
        return UnsupportedByStore(f"cannot read a part of {key} in {self._place}: it answers {instead}")

    def _fetch_range(
        self, key: str, request: GetObjectRequestTypeDef, length: int
    ) -> tuple[bytes, GetObjectOutputTypeDef]:
        content, answer = self._fetch(key, request, length)
        if len(content) > length:
            raise self._no_part(key, f"with more than {length} bytes")
        return content, answer

    def _stat_empty(self, key: str) -> ObjectInfo:
        info = self.stat(key)
        if info.size:
            raise ObjectChanged(f"{key} in {self._place} was empty and then replaced")
        return info

    def _store(self, request: PutObjectRequestTypeDef, body: Body) -> None:
        while True:
            way = self._ways[0]
            try:
                self._upload(request, body, way)
            except (ClientError, HTTPClientError) as error:
                if not self._adapts(error, body, way):
                    raise
            else:
                return

    def _adapts(self, error: Exception, body: Body, way: _Way) -> bool:
        """Return whether a refused put is worth a retry in the form that the server requires.

        Another thread may have learned the form while this put was running.
        """
        if way.expects and is_announced(body) and rejects_expectation(error):
            self._ways[0] = self._ways[0]._replace(expects=False)
            return True
        if not way.with_checksum and isinstance(error, ClientError) and demands_checksum(error):
            # A bucket that requires it once always does.
            self._ways[0] = self._ways[0]._replace(with_checksum=True)
            return True
        return False

    def _upload(self, request: PutObjectRequestTypeDef, body: Body, way: _Way) -> None:
        if way.with_checksum:
            request["ChecksumSHA256"] = base64.b64encode(hashlib.sha256(body).digest()).decode()
        if self._lock is not None:
            request["ObjectLockMode"] = s3_mode(self._lock)
            request["ObjectLockRetainUntilDate"] = s3_date(self._lock)
        request["Body"] = upload_body(body, way.expects, self.scope.note_progress)
        self._client.put_object(**request)

    def _require_bucket(self) -> None:
        """Raise ``NoBucket`` if it does not exist: a HEAD of an object answers 404 for both.

        Credentials that may only list a prefix are denied the HEAD of the bucket, and would be denied the
        HEAD of the object too without the bucket.
        """
        try:
            with translated(f"cannot look up {self._place}", self._by_proxy):
                self._client.head_bucket(Bucket=self._bucket)
        except StoreDenied:
            return
        except ObjectNotFound as error:
            raise NoBucket(f"cannot find {self._place}") from error

    def _pages(self, prefix: str) -> Iterator[ListObjectsV2OutputTypeDef]:
        paginator = self._client.get_paginator("list_objects_v2")
        pages = iter(paginator.paginate(Bucket=self._bucket, Prefix=self._root + prefix))
        doing = f"cannot list {prefix or 'objects'}"
        while True:
            with self._doing(doing):
                page = next(pages, None)
            if page is None:
                return
            yield page
            if page.get("IsTruncated") and not page.get("NextContinuationToken"):
                # The client takes this for the end of the list: prune would remove data that points need.
                raise UnsupportedByStore(
                    f"{doing} in {self._place}: the server sends no token for the rest of the list"
                )

    def _infos(self, page: ListObjectsV2OutputTypeDef) -> Iterator[ObjectInfo]:
        for entry in page.get("Contents") or ():
            key = (entry.get("Key") or "").removeprefix(self._root)
            if is_key(key):
                yield info_of(key, entry.get("Size"), entry, self._place)

    def _delete(self, keys: Sequence[str]) -> Sequence[StoreError]:
        action = f"cannot delete objects in {self._place}"
        objects: Sequence[ObjectIdentifierTypeDef] = [{"Key": self._key(key)} for key in keys]
        with translated(action, self._by_proxy):
            answer = self._client.delete_objects(
                Bucket=self._bucket, Delete={"Objects": objects, "Quiet": True}
            )
        return [
            translate_code(
                failure.get("Code") or "", failure.get("Message") or "", f"{action}: {failure.get('Key')}"
            )
            for failure in answer.get("Errors") or ()
            if failure.get("Code") != "NoSuchKey"
        ]


def _without_user(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
