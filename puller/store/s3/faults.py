"""Meaning of the S3 client's errors without an answer: connections, TLS, proxies, credentials."""

from __future__ import annotations

import re

from botocore import exceptions as aws
from urllib3.exceptions import HTTPError

from puller.errors import StoreDenied, StoreError, StoreUnavailable

Meaning = tuple[type[StoreError], str | None]
"""The class of the error, and its advice if it differs from that of the class."""

PROXY_ADVICE = "Correct HTTP_PROXY or HTTPS_PROXY, or add the server's host to NO_PROXY."

_CERTIFICATE_ADVICE = (
    "Set AWS_CA_BUNDLE to a file with the certificate of the server's authority, or unset it "
    "if it names another one; use an endpoint with http:// for a server without TLS."
)
_DATE_ADVICE = "Renew the server's certificate; if its dates are correct, set this host's clock."
_NAME_ADVICE = (
    "Use the name in the server's certificate in AWS_ENDPOINT_URL_S3, or get a certificate for this name."
)
_REACH_ADVICE = (
    "Check that the server runs, that AWS_ENDPOINT_URL_S3 names it, and that no proxy in HTTP_PROXY or "
    "HTTPS_PROXY blocks it (NO_PROXY); the next run continues from here."
)
_KEYS_ADVICE = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE."

_TLS: tuple[tuple[str, str], ...] = (
    ("certificate has expired", _DATE_ADVICE),
    ("certificate is not yet valid", _DATE_ADVICE),
    ("doesn't match", _NAME_ADVICE),
    ("mismatch", _NAME_ADVICE),
    ("no appropriate", _NAME_ADVICE),
    ("CERTIFICATE", _CERTIFICATE_ADVICE),
    ("X509", _CERTIFICATE_ADVICE),
    ("UNKNOWN_CA", _CERTIFICATE_ADVICE),
    ("No such file", _CERTIFICATE_ADVICE),
    ("WRONG_VERSION", _CERTIFICATE_ADVICE),
    ("UNSUPPORTED_PROTOCOL", _CERTIFICATE_ADVICE),
    ("PROTOCOL_VERSION", _CERTIFICATE_ADVICE),
    ("HANDSHAKE_FAILURE", _CERTIFICATE_ADVICE),
)
"""Words of OpenSSL and urllib3 for permanent failures. Others may be a connection lost in the handshake."""

_TUNNEL = re.compile(r"Tunnel connection failed: (4\d\d[^'\"]*)")


def classify(error: Exception) -> Meaning:
    """Return the meaning of ``error``, which the client raised without an answer of the server."""
    match error:
        case aws.SSLError():
            return _classify_tls(str(error))
        case aws.ProxyConnectionError():
            return (StoreError if _proxy_refusal(error) else StoreUnavailable), PROXY_ADVICE
        case aws.ConnectionError() | aws.HTTPClientError() | aws.IncompleteReadError() | HTTPError():
            return StoreUnavailable, _REACH_ADVICE
        case _:
            return _classify_credentials(error)


def _classify_credentials(error: Exception) -> Meaning:
    """No request was sent, mostly because of missing credentials."""
    match error:
        case aws.NoCredentialsError() | aws.PartialCredentialsError() | aws.CredentialRetrievalError():
            return StoreDenied, _KEYS_ADVICE
        case aws.TokenRetrievalError() | aws.UnauthorizedSSOTokenError() | aws.SSOTokenLoadError():
            return StoreDenied, "Log in again with 'aws sso login'."
        case RuntimeError() if "expired" in str(error):  # the credentials of credential_process are too old
            return (
                StoreDenied,
                "Renew the credentials of the profile's credential_process, or set this host's clock.",
            )
        case _:
            return StoreError, None


def describe(error: Exception) -> str:
    """Return the text of ``error`` on one line, with its class if it is not in the client's own tree."""
    if isinstance(error, aws.ProxyConnectionError) and (refusal := _proxy_refusal(error)):
        return f"the proxy refuses the request: {refusal}"
    text = " ".join(str(error).split()).rstrip(".")
    if isinstance(error, aws.BotoCoreError | HTTPError | RuntimeError):
        return text
    return f"the S3 client fails with {type(error).__name__}: {text}"


def _classify_tls(text: str) -> Meaning:
    for words, advice in _TLS:
        if words in text:
            return StoreError, advice
    return StoreUnavailable, _REACH_ADVICE


def _proxy_refusal(error: aws.ProxyConnectionError) -> str | None:
    """Return a proxy's 403 or 407 to a CONNECT, which a retry would get again."""
    found = _TUNNEL.search(str(error.kwargs.get("error", "")))
    return found.group(1).strip() if found else None
