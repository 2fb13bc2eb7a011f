"""Translate botocore's exceptions into puller's errors.

Codes are those of https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html, and a few of
servers that speak S3 (MinIO, Ceph). A HEAD has no body and so no code: botocore gives the status as text.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager

from botocore import exceptions as aws

from puller.errors import (
    NoBucket,
    ObjectChanged,
    ObjectExists,
    ObjectNotFound,
    PullerError,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnavailable,
    UnsupportedByStore,
)
from puller.store.s3.answers import Refusal, is_code, one_line, worded
from puller.store.s3.faults import PROXY_ADVICE, classify, describe

_CODES: Mapping[str, type[StoreError]] = {
    "NoSuchBucket": NoBucket,
    "NoSuchKey": ObjectNotFound,
    "InvalidObjectState": StoreDenied,
    "ExpiredToken": StoreDenied,
    "InvalidToken": StoreDenied,
    "TokenRefreshRequired": StoreDenied,
    "RequestTimeTooSkewed": StoreDenied,
    "QuotaExceeded": StoreFull,
    "XMinioStorageFull": StoreFull,
    "XMinioAdminBucketQuotaExceeded": StoreFull,
    "ConditionalRequestConflict": StoreUnavailable,
    "OperationAborted": StoreUnavailable,
    "RequestTimeout": StoreUnavailable,
    "SlowDown": StoreUnavailable,
    "Throttling": StoreUnavailable,
    "NotImplemented": UnsupportedByStore,
}

_STATUSES: Mapping[int, type[StoreError]] = {
    401: StoreDenied,
    403: StoreDenied,
    404: ObjectNotFound,
    408: StoreUnavailable,
    429: StoreUnavailable,
    501: UnsupportedByStore,
    507: StoreFull,
}

_ADVICE: Mapping[str, str] = {
    "InvalidObjectState": (
        "The object is in an archive tier: restore it there, and change the bucket's lifecycle rules "
        "so that they do not apply to the repository's prefix."
    ),
    "ExpiredToken": "Renew the temporary credentials, then run the command again.",
    "RequestTimeTooSkewed": "Set this host's clock; S3 allows 15 minutes of difference.",
    "AccessDenied": (
        "Allow s3:ListBucket, s3:GetObject, s3:PutObject and s3:DeleteObject on the repository's prefix in "
        "the credentials' policy, or correct the URL; without s3:ListBucket, S3 also denies access to an "
        "object that does not exist."
    ),
    "InvalidStorageClass": "Set storage-class to a class that the server has, or remove it.",
    "NoSuchBucket": "Create the bucket first, or correct the URL or AWS_ENDPOINT_URL_S3.",
}


_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_OTHER_REGION = frozenset(
    {
        "IllegalLocationConstraint",
        "IllegalLocationConstraintException",
        "PermanentRedirect",
        "TemporaryRedirect",
        "InvalidRegion",
    }
)


@contextmanager
def translated(action: str, by_proxy: bool = False) -> Generator[None, None, None]:
    """Raise an exception of the S3 client inside as an error that begins with ``action``.

    The client calls profiles' programs, parsers and Python's own libraries, whose exceptions are not all in
    its own tree, so call only the client inside. ``by_proxy``: whether requests go to a proxy.
    """
    try:
        yield
    except (PullerError, MemoryError):
        raise
    except Exception as error:
        raise translate(error, action, by_proxy) from error


def translate(error: Exception, action: str, by_proxy: bool = False) -> StoreError:
    """Return the error to raise for ``error`` during ``action``."""
    if isinstance(error, aws.ClientError):
        return _from_answer(Refusal.of(error), action, by_proxy)
    kind, advice = classify(error)
    return kind(f"{action}: {describe(error)}", advice=advice)


def translate_code(code: str, message: str, action: str) -> StoreError:
    """Return the error for one key's failure in the answer to a delete of several."""
    is_denied = code == "AccessDenied" or _is_held(code, message)
    kind = _CODES.get(code) or (StoreDenied if is_denied else StoreError)
    words = worded(one_line(message), code) or "the server gives no reason"
    return kind(f"{action}: {words}", advice=_ADVICE.get(code))


def _is_held(code: str, message: str) -> bool:
    """Return whether Object Lock holds a version. MinIO's words are "Object is WORM protected"."""
    return code == "InvalidRequest" and "worm" in message.lower()


def demands_checksum(error: aws.ClientError) -> bool:
    """Return whether a put was refused because it had no checksum.

    AWS requires one if Object Lock protects the object: InvalidRequest, "Content-MD5 OR
    x-amz-checksum- HTTP header is required for Put Object requests with Object Lock parameters".
    """
    refusal = Refusal.of(error)
    message = refusal.message.lower()
    return refusal.status == 400 and ("content-md5" in message or "x-amz-checksum" in message)


def refuses_expectation(error: Exception) -> bool:
    """Return whether a put may have failed because of ``Expect: 100-continue``.

    Servers and proxies that do not support it answer 417, or close the connection.
    """
    if isinstance(error, aws.ClientError):
        return Refusal.of(error).status == 417
    return isinstance(error, aws.HTTPClientError) and not isinstance(error, aws.ReadTimeoutError)


_NO_BATCHES = frozenset(
    {
        "AccessDenied",
        "InvalidArgument",
        "InvalidRequest",
        "MalformedXML",
        "MethodNotAllowed",
        "NotImplemented",
    }
)


def refuses_batches(error: aws.ClientError) -> bool:
    """Return whether ``DeleteObjects`` may be refused as such, and single deletions allowed.

    Ceph denies it if the permission is limited to a prefix; Google does not support it.
    """
    refusal = Refusal.of(error)
    if not is_code(refusal.code):
        return refusal.status in {400, 403, 404, 405, 501}
    return refusal.code in _NO_BATCHES


def may_be_absent(error: BaseException | None) -> bool:
    """Return whether access was denied, as by some servers for an absent object, or refused without a
    reason."""
    if not isinstance(error, aws.ClientError):
        return False
    refusal = Refusal.of(error)
    return (refusal.status == 403 and refusal.code in {"AccessDenied", "403", ""}) or is_unexplained(error)


def is_unexplained(error: BaseException | None) -> bool:
    """Return whether a HEAD was refused: its answer has no body, and so no code and no message."""
    if not isinstance(error, aws.ClientError):
        return False
    refusal = Refusal.of(error)
    return refusal.operation == "HeadObject" and refusal.status in {400, 403} and not is_code(refusal.code)


def is_beyond_end(error: aws.ClientError) -> bool:
    """Return whether a ranged read begins at or after the end of the object (416)."""
    return Refusal.of(error).status == 416


def _from_answer(refusal: Refusal, action: str, by_proxy: bool) -> StoreError:
    if refusal.status == 407 or (by_proxy and refusal.status == 403 and refusal.anonymous):
        return StoreError(f"{action}: the proxy refuses the request: {refusal.words}", advice=PROXY_ADVICE)
    if _is_elsewhere(refusal):
        return _from_redirect(refusal, action)
    denied = refusal.status == 403 and refusal.code in {"", "403"}
    advice = _ADVICE.get("AccessDenied" if denied else refusal.code)
    return _kind(refusal)(f"{action}: {refusal.words}", advice=advice)


def _is_elsewhere(refusal: Refusal) -> bool:
    if refusal.code == "AuthorizationHeaderMalformed":  # also of other credentials than expected
        return "region" in refusal.message.lower()
    return refusal.code in _OTHER_REGION or refusal.status in _REDIRECTS


def _from_redirect(refusal: Refusal, action: str) -> StoreError:
    """The bucket is in another region of AWS, or at another address."""
    if refusal.location:
        text = f"{action}: the server redirects to {refusal.location}: {refusal.words}"
        return StoreError(
            text,
            advice="Set AWS_ENDPOINT_URL_S3 to the bucket's address and AWS_DEFAULT_REGION to its region.",
        )
    region = f", {refusal.region}" if refusal.region else ""
    return StoreError(
        f"{action}: {refusal.words}",
        advice=f"Set AWS_DEFAULT_REGION to the region of the bucket{region}; an endpoint in "
        "AWS_ENDPOINT_URL_S3 must belong to that region.",
    )


def _kind(refusal: Refusal) -> type[StoreError]:
    if refusal.code == "PreconditionFailed" or refusal.status == 412:
        return ObjectExists if refusal.operation == "PutObject" else ObjectChanged
    if _is_held(refusal.code, refusal.message):
        return StoreDenied
    fallback = StoreUnavailable if refusal.status >= 500 else StoreError
    return _CODES.get(refusal.code) or _STATUSES.get(refusal.status, fallback)
