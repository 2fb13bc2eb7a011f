"""Location of a repository: the user's text as a value, and the store at that location."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from puller.errors import UsageError
from puller.store.base import Store, is_key
from puller.store.directory.folder import FolderStore
from puller.store.options import DEFAULTS, StoreOptions

# Names that the S3 client accepts; servers other than AWS allow more than AWS's own rules.
_BUCKET = re.compile(r"[A-Za-z0-9._-]{3,255}")

_ADVICE = "Write s3://bucket/prefix, or a directory as /path, ./path or file:///path."


@dataclass(frozen=True, slots=True)
class S3Location:
    """A bucket and the prefix of all keys in it; ``prefix`` has no slash at either end, and may be empty."""

    bucket: str
    prefix: str

    @property
    def url(self) -> str:
        """``s3://bucket/prefix``."""
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")


@dataclass(frozen=True, slots=True)
class FolderLocation:
    """A directory, by its absolute path."""

    path: Path

    @property
    def url(self) -> str:
        """The path."""
        return str(self.path)


Location = S3Location | FolderLocation


def parse(url: str) -> Location:
    """Parse the user's location of the repository; a relative path is made absolute.

    Raises ``UsageError`` for anything but ``s3://bucket/prefix``, ``file:///path``, ``/path`` and a
    path that begins with ``./`` or ``../``. A bare word is refused, because it is usually a mistake.
    """
    scheme, separator, rest = url.partition("://")
    if separator and scheme == "s3":
        return _parse_s3(rest)
    if separator and scheme == "file" and rest.startswith("/"):
        return _parse_path(unquote(rest))
    if url.startswith("/") or url.split("/", 1)[0] in {".", ".."}:
        return _parse_path(url)
    raise UsageError("invalid repository: neither an S3 URL nor a directory", advice=_ADVICE)


def open_store(url: str, options: StoreOptions = DEFAULTS) -> Store:
    """Return the store at ``url``, without touching it. Raises ``UsageError``."""
    location = parse(url)
    if isinstance(location, FolderLocation):
        return FolderStore(location.path)
    # botocore is slow to load and large, and users of directories do not need it.
    from puller.store.s3.client.client import connect

    return connect(location.bucket, location.prefix, options=options)


def address(store: Store) -> str:
    """Return the URL of ``store``; for a bucket with the endpoint, as servers may share bucket names."""
    if not store.url.startswith("s3://"):
        return store.url
    from puller.store.s3.s3 import S3Store

    return f"{store.url} of {store.endpoint}" if isinstance(store, S3Store) else store.url


def _parse_s3(rest: str) -> S3Location:
    bucket, _, prefix = rest.partition("/")
    # The message omits the text, which may contain credentials before an @.
    if not _BUCKET.fullmatch(bucket):
        raise UsageError(
            "invalid S3 URL of the repository: it does not begin with a valid bucket name", advice=_ADVICE
        )
    prefix = prefix.strip("/")
    if prefix and not is_key(prefix):
        raise UsageError(
            f"invalid prefix {prefix!r}: no part may be empty or begin with a dot", advice=_ADVICE
        )
    return S3Location(bucket, prefix)


def _parse_path(path: str) -> FolderLocation:
    if "\0" in path:
        raise UsageError("invalid path of the repository: it contains a zero byte", advice=_ADVICE)
    return FolderLocation(Path(path).resolve())
