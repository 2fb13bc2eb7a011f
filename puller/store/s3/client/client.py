"""Configuration of the S3 client, with the reasons."""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError

from puller.errors import UsageError
from puller.store.options import DEFAULTS, StoreOptions
from puller.store.s3.body import BufferFile
from puller.store.s3.client.options import add_to_requests, session_with, with_options
from puller.store.s3.client.profile import decides_signing, own_settings
from puller.store.s3.client.signing import Signing
from puller.store.s3.client.timelimits import TimeLimits
from puller.store.s3.differences import Differences
from puller.store.s3.quick import SERVICE, make_quick
from puller.store.s3.s3 import S3Store

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_SETTING_UP = (BotoCoreError, ValueError, LookupError, RuntimeError, OSError)
"""Errors of unreadable files, missing programs and their output, besides the client's own errors."""


def connect(
    bucket: str, prefix: str, config: Config | None = None, options: StoreOptions = DEFAULTS
) -> S3Store:
    """Return the store in ``bucket`` under ``prefix``, without touching it.

    Credentials, region and endpoint are those of the AWS environment variables and profiles. ``config``
    overrides puller's own settings. Raises ``UsageError`` if the environment names a profile that does not
    exist, or an endpoint that is not a URL, or if a file of the options cannot be used.
    """
    differences = Differences()
    client = make_client(config, options, differences)
    add_to_requests(client, options, f"{prefix}/" if prefix else "")
    return S3Store(client, bucket, prefix, differences)


def make_client(
    config: Config | None = None,
    options: StoreOptions = DEFAULTS,
    differences: Differences | None = None,
) -> S3Client:
    """Return the client that ``connect`` uses, with the same errors. It may serve many stores and threads.

    It has only those options that apply to all requests. It notes the server's ``differences``.
    """
    try:
        client = _client(config or Config(), options, differences or Differences())
    except _SETTING_UP as error:
        raise UsageError(
            f"cannot set up the S3 client: {error}".rstrip(".: \n"),
            advice="Correct AWS_PROFILE, AWS_ENDPOINT_URL_S3 or the files in ~/.aws.",
        ) from error
    # DeleteObjects must have a checksum. botocore sends CRC-32, which older servers do not support: they
    # answer MissingContentMD5. The API defines both headers.
    client.meta.events.register("before-call.s3.DeleteObjects", _add_content_md5)
    client.meta.events.register_last("before-call.s3", _send_at_once)
    client.meta.events.register_last("before-parameter-build.s3", _stay_at_bucket)
    return client


def _client(config: Config, options: StoreOptions, differences: Differences) -> S3Client:
    """Create the client; bodies are not signed if TLS protects them, which saves processor time.

    botocore itself uses path-style addresses with a custom endpoint, and us-east-1 without a region.
    """
    session = session_with(options)
    make_quick(session)
    config = with_options(own_settings(session), options).merge(config)
    client = boto3.Session(botocore_session=session).client(SERVICE, config=config, verify=options.ca_bundle)
    unsigned = client.meta.endpoint_url.startswith("https:") and not decides_signing(session)
    if unsigned:
        settings: Any = client.meta.config
        settings.s3 = (settings.s3 or {}) | {"payload_signing_enabled": False}
    Signing(client, differences, lambda: session_with(options).get_credentials(), unsigned)
    TimeLimits(client)
    return client


def _add_content_md5(params: dict[str, Any], **_: object) -> None:
    digest = hashlib.md5(params["body"], usedforsecurity=False).digest()
    params["headers"]["Content-MD5"] = base64.b64encode(digest).decode()


def _send_at_once(params: dict[str, Any], **_: object) -> None:
    """Remove botocore's ``Expect: 100-continue`` from a body that must not be announced."""
    body = params.get("body")
    if isinstance(body, BufferFile) and not body.announced:
        params["headers"].pop("Expect", None)


def _stay_at_bucket(model: Any, context: dict[str, Any], **_: object) -> None:
    """Follow no redirect of a HEAD of the bucket.

    botocore sends it to find the region of a bucket that answers with a redirect; if that is redirected
    too, it repeats it until the interpreter's stack is full.
    """
    if model.name == "HeadBucket" and "s3_redirect" in context:
        context["s3_redirect"]["redirected"] = True
