"""A store in an S3 bucket, on AWS or any compatible server."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from copy import copy  # noqa: TID251 - of what has its __dict__
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Self
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
    StoreUnavailable,
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
from puller.store.s3.answers import info_of, quoted, read_bounded, whole_size
from puller.store.s3.body import HeardBody
from puller.store.s3.bucket import Bucket
from puller.store.s3.deletion import BATCH, Deletions, Target
from puller.store.s3.differences import (
    ABSENT_DENIED,
    NO_CONTENT_RANGE,
    NO_LONG_RANGES,
    NO_SIZES,
    Differences,
)
from puller.store.s3.errors import is_beyond_end, is_unexplained, may_be_absent, translated
from puller.store.s3.locking import S3Locks, s3_date, s3_mode
from puller.store.s3.uploads import Uploads

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import (
        GetObjectOutputTypeDef,
        GetObjectRequestTypeDef,
        ListObjectsV2OutputTypeDef,
        PutObjectRequestTypeDef,
    )

READ_ATTEMPTS = 3
"""Attempts to read a body: botocore retries requests, but not once the body has begun."""

_BROKEN_BODY = (HTTPClientError, IncompleteReadError, HTTPError)


class S3Store(Scoped):
    """Objects in ``bucket`` under ``prefix`` (no slash at its ends, may be empty).

    ``client`` comes from ``puller.store.s3.client.client.connect``. Keys and bodies are sent as they are, in
    one request each. Multipart uploads are not needed: all objects are far below the limit of one PUT.
    """

    def __init__(
        self, client: S3Client, bucket: str, prefix: str, differences: Differences | None = None
    ) -> None:
        self._client = client
        self._differences = differences or Differences()
        self._bucket = bucket
        self._root = f"{prefix}/" if prefix else ""
        self.endpoint = _without_user(client.meta.endpoint_url)
        self._place = f"bucket {bucket} at {self.endpoint}"
        config: Any = client.meta.config  # the stubs lack its members
        self._time_limit = float(config.read_timeout)
        self._by_proxy = bool(get_environ_proxies(self.endpoint))
        self._uploads = Uploads(client, self._differences)
        self._deletions = Deletions(client, bucket, self._differences, self._place, self._by_proxy)
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
        return S3Locks(
            self._client,
            self._bucket,
            self._root,
            self._place,
            self._by_proxy,
            partial(self._deletions.delete, self.scope),
            self._reading,
        )

    @property
    def bucket(self) -> Bucket:
        """Return the bucket, whose settings can be queried."""
        return Bucket(self._client, self._bucket, self._root, self._place, self._differences)

    def get(self, key: str, *, max_size: int | None = None) -> bytes:
        """See ``Store.get``."""
        request = self._request(key)
        with self._reading(f"cannot read {key}", key):
            content, _ = self._fetch(key, request, max_size)
        check_size(key, len(content), max_size)
        return content

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """See ``Store.get_range``."""
        validate_range(offset, length)
        request = self._request(key)
        request["Range"] = f"bytes={offset}-{offset + length - 1}"
        with self._reading(f"cannot read {key}", key):
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
        if not self._differences.met(NO_LONG_RANGES):
            with self._reading(f"cannot read {key}", key):
                try:
                    content, answer = self._fetch_range(key, request, length)
                    return content, self._info_of_tail(key, content, length, answer)
                except ClientError as error:
                    if not is_beyond_end(error):
                        raise
        return self._get_tail_by_size(key, length)

    def put(self, key: str, body: Body) -> None:
        """See ``Store.put``."""
        request = self._put_request(key)
        with self._doing(f"cannot store {key}"):
            self._uploads.put(request, body, self.scope.note_progress)

    def put_new(self, key: str, body: Body) -> None:
        """See ``Store.put_new``.

        S3 answers 409 ConditionalRequestConflict if the key is deleted during the put: that is
        ``StoreUnavailable``, because a retry helps.
        """
        request = self._put_request(key)
        with self._doing(f"cannot store {key}"):
            self._uploads.put_new(request, body, self.scope.note_progress)

    def stat(self, key: str) -> ObjectInfo:
        """See ``Store.stat``."""
        name = self._key(key)
        try:
            with self._reading(f"cannot look up {key}", key):
                answer = self._client.head_object(Bucket=self._bucket, Key=name)
        except ObjectNotFound:
            self._require_bucket()
            raise
        if answer.get("ContentLength") is None and (listed := self._listed(key)) is not None:
            self._differences.note(NO_SIZES)
            return listed
        return info_of(key, answer.get("ContentLength"), answer, self._place)

    def exists(self, key: str) -> bool:
        """See ``Store.exists``."""
        return self._listed(key) is not None

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See ``Store.list``. Requests the next page when the one before is used up."""
        validate_prefix(prefix)
        return (info for page in self._pages(prefix) for info in self._infos(page))

    def delete(self, keys: Iterable[str]) -> None:
        """See ``Store.delete``."""
        rest = iter(keys)
        failures: list[StoreError] = []
        while batch := tuple(Target(self._key(key)) for key in islice(rest, BATCH)):
            failures += [error for _, error in self._deletions.delete(self.scope, batch)]
            self._differences.tell(self.scope)
        if failures:
            raise failures[0]

    def sweep(self, prefixes: Iterable[str], before: float) -> None:
        """See ``Store.sweep``: a put is one request, which leaves nothing if it is interrupted."""

    def _key(self, key: str) -> str:
        return self._root + validate_key(key)

    def _request(self, key: str) -> GetObjectRequestTypeDef:
        return {"Bucket": self._bucket, "Key": self._key(key)}

    def _put_request(self, key: str) -> PutObjectRequestTypeDef:
        request: PutObjectRequestTypeDef = {"Bucket": self._bucket, "Key": self._key(key)}
        if self._lock is not None:
            request["ObjectLockMode"] = s3_mode(self._lock)
            request["ObjectLockRetainUntilDate"] = s3_date(self._lock)
        return request

    @contextmanager
    def _doing(self, action: str) -> Generator[None]:
        with translated(f"{action} in {self._place}", self._by_proxy):
            yield
        self._differences.tell(self.scope)

    @contextmanager
    def _reading(self, action: str, key: str) -> Generator[None]:
        """Raise ObjectNotFound where the server denies access to an object that does not exist."""
        try:
            with self._doing(action):
                yield
        except StoreError as error:
            if may_be_absent(error.__cause__) and self._is_absent(action, key, error):
                self._differences.note(ABSENT_DENIED)
                raise ObjectNotFound(f"{action} in {self._place}: there is no such object") from error
            raise

    def _is_absent(self, action: str, key: str, denied: StoreError) -> bool:
        """Return whether a listing lacks the object. If it is refused too, raise the error that says why."""
        try:
            return self._listed(key, action) is None
        except StoreUnavailable:
            raise
        except StoreError as error:
            if is_unexplained(denied.__cause__):
                raise
            raise denied from error

    def _listed(self, key: str, action: str | None = None) -> ObjectInfo | None:
        """Return the entry of this one key in a listing. It is the first, because longer keys with this
        prefix follow it."""
        name = self._key(key)
        with self._doing(action or f"cannot look up {key}"):
            answer = self._client.list_objects_v2(Bucket=self._bucket, Prefix=name, MaxKeys=1)
        for entry in answer.get("Contents") or ():
            if entry.get("Key") == name:
                return info_of(key, entry.get("Size"), entry, self._place)
        return None

    def _fetch(
        self, key: str, request: GetObjectRequestTypeDef, limit: int | None
    ) -> tuple[bytes, GetObjectOutputTypeDef]:
        """Return the body, at most one byte over ``limit``, and the answer."""
        for attempt in range(1, READ_ATTEMPTS + 1):
            answer = self._client.get_object(**request)
            try:
                return self._read(key, answer, limit, request.get("Range")), answer
            except _BROKEN_BODY:
                if attempt == READ_ATTEMPTS:
                    raise
        raise AssertionError("the last attempt returns or raises")

    def _read(self, key: str, answer: GetObjectOutputTypeDef, limit: int | None, wanted: str | None) -> bytes:
        """Raise UnsupportedByStore before the body is read if the answer to a ranged read is not a range."""
        announced = answer.get("ContentLength")
        with closing(
            HeardBody(answer["Body"], self.scope.note_progress, self._time_limit)
        ) as body:  # the unread rest is dropped with its connection
            if wanted and not _is_part(answer, wanted, limit):
                raise self._no_part(key, "with the whole")
            if not wanted:
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

    def _info_of_tail(
        self, key: str, content: bytes, length: int, answer: GetObjectOutputTypeDef
    ) -> ObjectInfo:
        size = whole_size(answer)
        if size is None and (len(content) < length or _is_whole(answer)):
            size = len(content)
        if size is not None:
            return info_of(key, size, answer, self._place)
        self._differences.note(NO_CONTENT_RANGE)
        info = self.stat(key)
        self._require_version(key, info, answer)
        return info

    def _get_tail_by_size(self, key: str, length: int) -> tuple[bytes, ObjectInfo]:
        """Read the end of an object for which the server refused the range: it is empty, or shorter."""
        info = self.stat(key)
        if not info.size:
            return b"", info
        request = self._request(key)
        request["Range"] = f"bytes={max(0, info.size - length)}-{info.size - 1}"
        request["IfMatch"] = info.etag
        with self._reading(f"cannot read {key}", key):
            content, answer = self._fetch_range(key, request, length)
        self._require_version(key, info, answer)
        self._differences.note(NO_LONG_RANGES)
        return content, info

    def _require_version(self, key: str, info: ObjectInfo, answer: GetObjectOutputTypeDef) -> None:
        if quoted(answer.get("ETag") or "") != info.etag:
            raise ObjectChanged(f"{key} in {self._place} was replaced while it was read")

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
            if not is_key(key):
                continue
            if entry.get("ETag"):
                yield info_of(key, entry.get("Size"), entry, self._place)
            elif (found := self._looked_up(key)) is not None:
                yield found

    def _looked_up(self, key: str) -> ObjectInfo | None:
        """Look up an object that a listing has without its ETag; None if it is gone.

        rclone computes ETags from the content while it lists, so an object that is being deleted has none.
        """
        try:
            with self._reading(f"cannot look up {key}", key):
                answer = self._client.head_object(Bucket=self._bucket, Key=self._key(key))
        except ObjectNotFound:
            return None
        return info_of(key, answer.get("ContentLength"), answer, self._place)


def _is_whole(answer: GetObjectOutputTypeDef) -> bool:
    return answer["ResponseMetadata"]["HTTPStatusCode"] == 200


def _is_part(answer: GetObjectOutputTypeDef, wanted: str, limit: int | None) -> bool:
    """Return whether the answer to a read of the range ``wanted`` has no more than that.

    Some servers send the whole object if it is not longer than the range, and some omit the Content-Range.
    """
    if whole_size(answer) is not None or not _is_whole(answer):
        return True
    size = answer.get("ContentLength")
    return wanted.startswith(("bytes=-", "bytes=0-")) and size is not None and size <= (limit or 0)


def _without_user(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
