"""What botocore's exceptions mean, in puller's own.

Codes are those of https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html, and a few of
servers that speak S3 (MinIO, Ceph). A HEAD has no body and so no code: botocore gives the status as text.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager

from botocore import exceptions as aws
from urllib3.exceptions import HTTPError

from puller.errors import (
    NoBucket,
    ObjectChanged,
    ObjectExists,
    ObjectNotFound,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnavailable,
    UnsupportedByStore,
)

TRANSLATED = (aws.BotoCoreError, aws.ClientError, HTTPError)
"""Everything that the S3 client raises while it talks to the server; urllib3's while a body is read."""

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

_CERTIFICATE_ADVICE = (
    "Set AWS_CA_BUNDLE to a file that holds the certificate of the server's authority, or unset it "
    "if it names another one; for a server without TLS the endpoint begins with http://."
)
_PROXY_ADVICE = "Correct HTTP_PROXY or HTTPS_PROXY, or name the server's host in NO_PROXY."
_REACH_ADVICE = (
    "Check that the server runs, that AWS_ENDPOINT_URL_S3 names it, and that a proxy in HTTP_PROXY or "
    "HTTPS_PROXY does not stand between (NO_PROXY); the next run goes on from here."
)

_ADVICE: Mapping[str, str] = {
    "InvalidObjectState": (
        "The object is in an archive tier: restore it there, and change the bucket's lifecycle rules "
        "so that they leave the repository's prefix alone."
    ),
    "ExpiredToken": "Renew the temporary credentials and run again.",
    "RequestTimeTooSkewed": "Set this host's clock; S3 allows 15 minutes of difference.",
    "AccessDenied": (
        "Let the credentials' policy allow s3:ListBucket, s3:GetObject, s3:PutObject and s3:DeleteObject; "
        "without s3:ListBucket an absent object looks denied too."
    ),
    "NoSuchBucket": "Make the bucket first, or correct the URL or AWS_ENDPOINT_URL_S3.",
}


@contextmanager
def translated(action: str) -> Generator[None, None, None]:
    """Raise what the S3 client raises inside as an error that begins with ``action``."""
    try:
        yield
    except TRANSLATED as error:
        raise translate(error, action) from error


def translate(error: Exception, action: str) -> StoreError:
    """Return the error to raise for ``error``, which came up during ``action``."""
    if isinstance(error, aws.ClientError):
        return _from_answer(error, action)
    kind, advice = _classify(error)
    return kind(f"{action}: {_one_line(error)}", advice=advice)


def translate_code(code: str, message: str, action: str) -> StoreError:
    """Return the error for one key's failure in the answer to a delete of many."""
    kind = _CODES.get(code) or (StoreDenied if code == "AccessDenied" else StoreError)
    return kind(f"{action}: {_one_line(message)} ({code})", advice=_ADVICE.get(code))


def demands_checksum(error: aws.ClientError) -> bool:
    """Tell whether a put was refused because it came without a checksum.

    AWS asks for one where Object Lock protects the object: InvalidRequest, "Content-MD5 OR
    x-amz-checksum- HTTP header is required for Put Object requests with Object Lock parameters".
    """
    message = error.response["Error"].get("Message", "").lower()
    return _status(error) == 400 and ("content-md5" in message or "x-amz-checksum" in message)


def is_beyond_end(error: aws.ClientError) -> bool:
    """Tell whether a ranged read begins at or after the end of the object (416)."""
    return _status(error) == 416


def _from_answer(error: aws.ClientError, action: str) -> StoreError:
    code = error.response["Error"].get("Code", "")
    message = error.response["Error"].get("Message", "")
    kind = _kind(code, _status(error), error.operation_name)
    advice = _ADVICE.get("AccessDenied" if code == "403" else code)
    return kind(f"{action}: {_one_line(message)} ({code})", advice=advice)


def _kind(code: str, status: int, operation: str) -> type[StoreError]:
    if code == "PreconditionFailed" or status == 412:
        return ObjectExists if operation == "PutObject" else ObjectChanged
    fallback = StoreUnavailable if status >= 500 else StoreError
    return _CODES.get(code) or _STATUSES.get(status, fallback)


def _classify(error: Exception) -> tuple[type[StoreError], str | None]:
    """Tell the class and the advice for an exchange that had no answer."""
    match error:
        case aws.SSLError():
            # A verification that failed will fail again; a connection cut in the handshake may not.
            hopeless = (
                "CERTIFICATE" in str(error) or "WRONG_VERSION" in str(error) or "No such file" in str(error)
            )
            return (StoreError if hopeless else StoreUnavailable), _CERTIFICATE_ADVICE
        case aws.ProxyConnectionError():
            return StoreUnavailable, _PROXY_ADVICE
        case aws.ConnectionError() | aws.HTTPClientError() | aws.IncompleteReadError() | HTTPError():
            return StoreUnavailable, _REACH_ADVICE
        case aws.NoCredentialsError() | aws.PartialCredentialsError() | aws.CredentialRetrievalError():
            return StoreDenied, "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE."
        case aws.TokenRetrievalError() | aws.UnauthorizedSSOTokenError() | aws.SSOTokenLoadError():
            return StoreDenied, "Log in again with 'aws sso login'."
        case _:
            return StoreError, None


def _status(error: aws.ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _one_line(text: object) -> str:
    return " ".join(str(text).split()).rstrip(".")
