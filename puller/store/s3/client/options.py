"""The options of a store as settings of the S3 client, and as parameters of its requests."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any

from botocore.config import Config
from botocore.session import Session

from puller.errors import UsageError
from puller.store.options import BULK, StoreOptions

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_POOL = 32


def session_with(options: StoreOptions) -> Session:
    """Return a new session, which reads the credentials file of the options. Raises UsageError."""
    session = Session()
    if options.credentials_file is not None:
        _check_readable(options.credentials_file)
        session.set_config_variable("credentials_file", options.credentials_file)
    return session


def _check_readable(path: str) -> None:
    """botocore treats a file that it cannot read like one without credentials."""
    try:
        Path(path).open("rb").close()
    except OSError as error:
        raise UsageError(
            f"cannot read the credentials file {path}: {error.strerror}",
            advice="Name a readable file in credentials-file or PULLER_CREDENTIALS_FILE, or leave it out.",
        ) from error


def with_options(config: Config, options: StoreOptions) -> Config:
    """Return ``config`` with what the options set in the client. Raises UsageError."""
    if options.ca_bundle is not None:
        _check_bundle(options.ca_bundle)
    # Uploads and ranged reads may run at once, and a connection beyond the pool is closed after one request.
    pool = max(_POOL, 2 * (options.connections or 0))
    config = config.merge(Config(max_pool_connections=pool))
    if options.addressing is None:
        return config
    # The client's stubs name each word.
    s3: Any = (getattr(config, "s3", None) or {}) | {"addressing_style": options.addressing}
    return config.merge(Config(s3=s3))


def _check_bundle(path: str) -> None:
    try:
        ssl.create_default_context(cafile=path)
    except OSError as error:  # ssl.SSLError too
        why = "it has no certificate in PEM form" if isinstance(error, ssl.SSLError) else error.strerror
        raise UsageError(
            f"cannot use the CA bundle {path}: {why}",
            advice="Name a file of PEM certificates in ca-bundle or PULLER_CA_BUNDLE, or leave it out.",
        ) from error


def add_to_requests(client: S3Client, options: StoreOptions, root: str) -> None:
    """Let each request of ``client`` have its parameters from the options.

    ``root`` is the prefix of all keys, empty or with a slash at its end.
    """
    # The client's events see every request of the store, in whatever module it is made.
    events = client.meta.events
    stored = {"ServerSideEncryption": options.sse, "SSEKMSKeyId": options.kms_key}
    encryption = {name: value for name, value in stored.items() if value is not None}

    def add_to_put(params: dict[str, Any], **_: object) -> None:
        params.update(encryption)
        if options.storage_class is not None and params["Key"].startswith(root + BULK):
            params["StorageClass"] = options.storage_class

    def add_payer(params: dict[str, Any], model: Any, **_: object) -> None:
        if "RequestPayer" in model.input_shape.members:
            params["RequestPayer"] = options.request_payer

    events.register("before-parameter-build.s3.PutObject", add_to_put)
    if options.request_payer is not None:
        events.register("before-parameter-build.s3", add_payer)
