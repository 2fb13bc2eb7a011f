"""A store in an S3 bucket, on AWS or any server that speaks the protocol."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from botocore.exceptions import ClientError, HTTPClientError, IncompleteReadError
from urllib3.exceptions import HTTPError

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
from puller.store.s3_body import upload_body
from puller.store.s3_bucket import Bucket
from puller.store.s3_errors import demands_checksum, is_beyond_end, translate_code, translated

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
"""Times that a body is asked for: botocore tries requests again, but not once the body has begun."""

_BROKEN_BODY = (HTTPClientError, IncompleteReadError, HTTPError)


class S3Store:
    """Objects in ``bucket`` under ``prefix`` (no slash at its ends, may be empty).

    ``client`` comes from ``puller.store.s3_client.connect``. Keys and bodies go over the wire as they
    are, one request each: no multipart uploads, whose limits (5 GiB in one PUT) no object comes near.
    """

    def __init__(self, client: S3Client, bucket: str, prefix: str) -> None:
        self._client = client
        self._bucket = bucket
        self._root = f"{prefix}/" if prefix else ""
        self.endpoint = _without_user(client.meta.endpoint_url)
        self._place = f"bucket {bucket} at {self.endpoint}"
        self._with_checksum = False

    @property
    def url(self) -> str:
        """``s3://bucket/prefix``."""
        return f"s3://{self._bucket}/{self._root}".rstrip("/")

    @property
    def bucket(self) -> Bucket:
        """The bucket, to ask how it is set up."""
        return Bucket(self._client, self._bucket, self._root, self._place)

    def get(self, key: str, *, max_size: int | None = None) -> bytes:
        """See ``Store.get``."""
        with translated(f"cannot read {key} in {self._place}"):
            return self._fetch(key, self._request(key), max_size)[0]

    def get_range(self, key: str, offset: int, length: int, *, etag: str | None = None) -> bytes:
        """See ``Store.get_range``."""
        validate_range(offset, length)
        request = self._request(key)
        request["Range"] = f"bytes={offset}-{offset + length - 1}"
        if etag is not None:
            request["IfMatch"] = etag
        with translated(f"cannot read {key} in {self._place}"):
            try:
                return self._fetch_range(key, request)[0]
            except ClientError as error:
                if not is_beyond_end(error):
                    raise
                return b""

    def get_tail(self, key: str, length: int) -> tuple[bytes, ObjectInfo]:
        """See ``Store.get_tail``. One request, but two for an empty object, which has no last byte."""
        validate_range(0, length)
        request = self._request(key)
        request["Range"] = f"bytes=-{length}"
        with translated(f"cannot read {key} in {self._place}"):
            try:
                return self._fetch_range(key, request)
            except ClientError as error:
                if not is_beyond_end(error):
                    raise
        return b"", self._stat_empty(key)

    def put(self, key: str, body: Body) -> None:
        """See ``Store.put``."""
        with translated(f"cannot store {key} in {self._place}"):
            self._store({"Bucket": self._bucket, "Key": self._key(key)}, body)

    def put_new(self, key: str, body: Body) -> None:
        """See ``Store.put_new``.

        S3 answers 409 ConditionalRequestConflict if the key is deleted while it is put: that is
        ``StoreUnavailable``, since trying again helps.
        """
        with translated(f"cannot store {key} in {self._place}"):
            self._store({"Bucket": self._bucket, "Key": self._key(key), "IfNoneMatch": "*"}, body)

    def stat(self, key: str) -> ObjectInfo:
        """See ``Store.stat``."""
        try:
            with translated(f"cannot look up {key} in {self._place}"):
                answer = self._client.head_object(Bucket=self._bucket, Key=self._key(key))
        except ObjectNotFound:
            self._require_bucket()
            raise
        return ObjectInfo(key, answer["ContentLength"], answer["LastModified"].timestamp(), answer["ETag"])

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See ``Store.list``. Asks for the next 1000 objects when the ones before are used up."""
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

    def _fetch(
        self, key: str, request: GetObjectRequestTypeDef, max_size: int | None = None
    ) -> tuple[bytes, GetObjectOutputTypeDef]:
        for attempt in range(1, READ_ATTEMPTS + 1):
            answer = self._client.get_object(**request)
            check_size(key, answer["ContentLength"], max_size)
            try:
                return answer["Body"].read(), answer
            except _BROKEN_BODY:
                if attempt == READ_ATTEMPTS:
                    raise
        raise AssertionError("the last attempt returns or raises")

    def _fetch_range(self, key: str, request: GetObjectRequestTypeDef) -> tuple[bytes, ObjectInfo]:
        content, answer = self._fetch(key, request)
        whole = answer.get("ContentRange", "").rpartition("/")[2]
        if not whole.isdigit():
            raise UnsupportedByStore(
                f"cannot read a part of {key} in {self._place}: it answers with the whole"
            )
        return content, ObjectInfo(key, int(whole), answer["LastModified"].timestamp(), answer["ETag"])

    def _stat_empty(self, key: str) -> ObjectInfo:
        info = self.stat(key)
        if info.size:
            raise ObjectChanged(f"{key} in {self._place} was empty and then replaced")
        return info

    def _store(self, request: PutObjectRequestTypeDef, body: Body) -> None:
        try:
            self._upload(request, body)
        except ClientError as error:
            if self._with_checksum or not demands_checksum(error):
                raise
            # From now on: a bucket that asks for it once always does.
            self._with_checksum = True
            self._upload(request, body)

    def _upload(self, request: PutObjectRequestTypeDef, body: Body) -> None:
        if self._with_checksum:
            request["ChecksumSHA256"] = base64.b64encode(hashlib.sha256(body).digest()).decode()
        request["Body"] = upload_body(body)
        self._client.put_object(**request)

    def _require_bucket(self) -> None:
        """Raise ``NoBucket`` if it is not there: a HEAD of an object answers 404 for both.

        Who may list a prefix only is denied the HEAD of the bucket, and would be denied that of the object
        too if there were no bucket.
        """
        try:
            with translated(f"cannot look up {self._place}"):
                self._client.head_bucket(Bucket=self._bucket)
        except StoreDenied:
            return
        except ObjectNotFound as error:
            raise NoBucket(f"there is no {self._place}") from error

    def _pages(self, prefix: str) -> Iterator[ListObjectsV2OutputTypeDef]:
        paginator = self._client.get_paginator("list_objects_v2")
        pages = iter(paginator.paginate(Bucket=self._bucket, Prefix=self._root + prefix))
        while True:
            with translated(f"cannot list {prefix or 'objects'} in {self._place}"):
                page = next(pages, None)
            if page is None:
                return
            yield page

    def _infos(self, page: ListObjectsV2OutputTypeDef) -> Iterator[ObjectInfo]:
        for entry in page.get("Contents", ()):
            key = entry["Key"].removeprefix(self._root)
            if is_key(key):
                yield ObjectInfo(key, entry["Size"], entry["LastModified"].timestamp(), entry["ETag"])

    def _delete(self, keys: Sequence[str]) -> Sequence[StoreError]:
        action = f"cannot delete objects in {self._place}"
        objects: Sequence[ObjectIdentifierTypeDef] = [{"Key": self._key(key)} for key in keys]
        with translated(action):
            answer = self._client.delete_objects(
                Bucket=self._bucket, Delete={"Objects": objects, "Quiet": True}
            )
        return [
            translate_code(failure["Code"], failure.get("Message", ""), f"{action}: {failure.get('Key')}")
            for failure in answer.get("Errors", ())
            if failure["Code"] != "NoSuchKey"
        ]


def _without_user(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
