"""Puts to one server, in the form that it requires."""

from __future__ import annotations

import base64
import hashlib
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from botocore.exceptions import ClientError, HTTPClientError

from puller.errors import ObjectExists, StoreError
from puller.store.base import Body
from puller.store.s3.body import SMALL, Note, is_announced, upload_body
from puller.store.s3.differences import NO_EXPECTATION, NO_LONGER_CONDITIONAL, Differences
from puller.store.s3.errors import demands_checksum, refuses_expectation, translated

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import PutObjectRequestTypeDef

_HANG_UPS = 2
"""Large puts that must succeed only without ``Expect`` to prove it the cause: one may be an outage."""


class _Way(NamedTuple):
    """Form of a put: announced with ``Expect: 100-continue``, with a checksum."""

    expects: bool = True
    with_checksum: bool = False


class Uploads:
    """Puts by ``client``. All copies of a store share what is known about its server."""

    def __init__(self, client: S3Client, differences: Differences) -> None:
        self._client = client
        self._differences = differences
        self._with_checksum = False
        self._hang_ups = 0
        self._accepts = False
        self._verified = False

    def put(self, request: PutObjectRequestTypeDef, body: Body, note_progress: Note) -> None:
        """Put ``body`` with the parameters of ``request``, again if another form helps."""
        way = _Way(self._is_worth_asking, self._with_checksum)
        doubt = 0
        while True:
            try:
                self._upload(request, body, way, note_progress)
            except (ClientError, HTTPClientError) as error:
                self._accepts = False
                if way.expects and is_announced(body) and refuses_expectation(error):
                    doubt = _HANG_UPS if isinstance(error, ClientError) else 1
                    way = way._replace(expects=False)
                elif not way.with_checksum and isinstance(error, ClientError) and demands_checksum(error):
                    # A bucket that requires it once always does.
                    self._with_checksum = True
                    way = way._replace(with_checksum=True)
                else:
                    raise
            else:
                self._doubt_expectation(doubt)
                self._accepts |= way.expects and is_announced(body)
                return

    @property
    def _is_worth_asking(self) -> bool:
        """Whether to ask the server before a large put, which costs a round trip.

        A server that has just accepted a large object will rarely refuse the next one.
        """
        return not self._accepts and not self._differences.met(NO_EXPECTATION)

    def put_new(self, request: PutObjectRequestTypeDef, body: Body, note_progress: Note) -> None:
        """Put the object unless it exists; test on the first small one whether the server still checks that.

        Some servers honour ``If-None-Match`` at ``init``, and no longer once versioning is switched on.
        """
        request["IfNoneMatch"] = "*"
        self.put(request, body, note_progress)
        is_tried = len(body) <= SMALL and "ObjectLockMode" not in request  # no second version is locked
        if is_tried and not self._verified:
            with suppress(StoreError):  # nothing is known then
                self._verify(request, body, note_progress)

    def _verify(self, request: PutObjectRequestTypeDef, body: Body, note_progress: Note) -> None:
        """Put the same content once more, which the server must refuse."""
        try:
            with translated("cannot verify a conditional write"):
                self.put(request, body, note_progress)
        except ObjectExists:
            self._verified = True
        else:
            self._verified = True
            self._differences.note(NO_LONGER_CONDITIONAL)

    def _doubt_expectation(self, doubt: int) -> None:
        self._hang_ups += doubt
        if self._hang_ups >= _HANG_UPS:
            self._differences.note(NO_EXPECTATION)

    def _upload(self, request: PutObjectRequestTypeDef, body: Body, way: _Way, note_progress: Note) -> None:
        if way.with_checksum:
            request["ChecksumAlgorithm"] = "SHA256"  # a header of its own, for which moto asks
            request["ChecksumSHA256"] = base64.b64encode(hashlib.sha256(body).digest()).decode()
        request["Body"] = upload_body(body, way.expects, note_progress)
        self._client.put_object(**request)
