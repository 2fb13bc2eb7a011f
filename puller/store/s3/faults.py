"""What it means when the S3 client has no answer: connections, TLS, proxies, credentials, the client."""

from __future__ import annotations

import re

from botocore import exceptions as aws
from urllib3.exceptions import HTTPError

from puller.errors import StoreDenied, StoreError, StoreUnavailable

Meaning = tuple[type[StoreError], str | None]
"""The class of the error, and its advice where it is not that of the class."""

PROXY_ADVICE = "Correct HTTP_PROXY or HTTPS_PROXY, or name the server's host in NO_PROXY."

_CERTIFICATE_ADVICE = (
    "Set AWS_CA_BUNDLE to a file that holds the certificate of the server's authority, or unset it "
    "if it names another one; for a server without TLS the endpoint begins with http://."
)
_DATE_ADVICE = "Renew the server's certificate; if its dates are right, set this host's clock."
_NAME_ADVICE = (
    "Name the server in AWS_ENDPOINT_URL_S3 as its certificate does, or give it a certificate for this name."
)
_REACH_ADVICE = (
    "Check that the server runs, that AWS_ENDPOINT_URL_S3 names it, and that a proxy in HTTP_PROXY or "
    "HTTPS_PROXY does not stand between (NO_PROXY); the next run goes on from here."
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
"""Words of OpenSSL and urllib3 for what fails again. All else may be a connection cut in the handshake."""

_TUNNEL = re.compile(r"Tunnel connection failed: (4\d\d[^'\"]*)")


def classify(error: Exception) -> Meaning:
    """What ``error`` means, which the client raised without an answer of the server."""
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
    """No request was sent, mostly since there are no credentials to sign it with."""
    match error:
        case aws.NoCredentialsError() | aws.PartialCredentialsError() | aws.CredentialRetrievalError():
            return StoreDenied, _KEYS_ADVICE
        case aws.TokenRetrievalError() | aws.UnauthorizedSSOTokenError() | aws.SSOTokenLoadError():
            return StoreDenied, "Log in again with 'aws sso login'."
        case RuntimeError() if "expired" in str(error):  # what credential_process gives is too old
            return (
                StoreDenied,
                "Renew what the profile's credential_process returns, or set this host's clock.",
            )
        case _:
            return StoreError, None


def describe(error: Exception) -> str:
    """What ``error`` says, on one line; with its class where it is not an error of the client's own tree."""
    if isinstance(error, aws.ProxyConnectionError) and (refusal := _proxy_refusal(error)):
        return f"the proxy refuses: {refusal}"
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
    """A proxy's 403 or 407 to a CONNECT, which it would give again."""
    found = _TUNNEL.search(str(error.kwargs.get("error", "")))
    return found.group(1).strip() if found else None
