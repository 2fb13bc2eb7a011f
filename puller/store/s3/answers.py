"""Fields of an S3 server's answers, all of which may be missing.

Ceph's errors have no message, Swift and rclone omit members that AWS always sends, and a faulty server may
announce one size and send another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from botocore.exceptions import ClientError

from puller.errors import UnsupportedByStore
from puller.store.base import ObjectInfo
from puller.units import MIB

_REQUEST_ID = "x-amz-request-id"


class _Readable(Protocol):
    def read(self, amt: int | None = None) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer that is an error. ``code`` and ``message`` may be empty, ``status`` is 0 if unknown.

    ``anonymous``: nothing in it shows that an S3 server gave it.
    """

    code: str
    message: str
    status: int
    operation: str
    region: str
    location: str
    anonymous: bool

    @classmethod
    def of(cls, error: ClientError) -> Refusal:
        """Return the answer behind ``error``."""
        fields: Mapping[str, Any] = error.response.get("Error") or {}
        metadata: Mapping[str, Any] = error.response.get("ResponseMetadata") or {}
        headers: Mapping[str, str] = metadata.get("HTTPHeaders") or {}
        return cls(
            code=one_line(fields.get("Code") or ""),
            message=one_line(fields.get("Message") or ""),
            status=int(metadata.get("HTTPStatusCode") or 0),
            operation=error.operation_name,
            region=one_line(fields.get("Region") or headers.get("x-amz-bucket-region") or ""),
            location=one_line(headers.get("location") or ""),
            anonymous=_REQUEST_ID not in headers and not is_code(fields.get("Code")),
        )

    @property
    def words(self) -> str:
        """The message and the code, if any."""
        return worded(self.message, self.code) or f"status {self.status} without an explanation"


def is_code(code: object) -> bool:
    """Whether it is an S3 error code; without an XML body the client puts the status there."""
    return bool(code) and not str(code).isdigit()


def worded(message: str, code: str) -> str:
    """Return ``message (code)``, or the one of both that exists."""
    return f"{message} ({code})" if message and code else message or code


def one_line(text: object) -> str:
    """Return ``text`` on one line, without a full stop."""
    return " ".join(str(text).split()).rstrip(".")


def whole_size(answer: Mapping[str, Any]) -> int | None:
    """Return the size of the whole object of a ranged read; None if the answer is not a range."""
    whole = str(answer.get("ContentRange") or "").rpartition("/")[2]
    return int(whole) if whole.isascii() and whole.isdigit() else None


def info_of(key: str, size: object, fields: Mapping[str, Any], place: str) -> ObjectInfo:
    """Return the info of an object. Raises UnsupportedByStore if the server does not send it."""
    modified, etag = fields.get("LastModified"), fields.get("ETag")
    told = {"size": isinstance(size, int), "time": isinstance(modified, datetime), "ETag": bool(etag)}
    if isinstance(size, int) and isinstance(modified, datetime) and etag:
        return ObjectInfo(key, size, modified.timestamp(), quoted(str(etag)))
    raise UnsupportedByStore(
        f"the server sends no {' and no '.join(name for name in told if not told[name])} of {key} in {place}",
        advice="Use a server that sends size, time and ETag of each object.",
    )


def quoted(etag: str) -> str:
    """Return ``etag`` in the quotes that belong to it; rclone's listings lack them."""
    return etag if etag.endswith('"') else f'"{etag}"'


def read_bounded(body: _Readable, announced: int | None, limit: int | None) -> bytes:
    """Read ``body`` to its end, but at most one byte over ``limit``, even if more is sent or announced."""
    if limit is None:
        return body.read()
    pieces: list[bytes] = []
    left = limit + 1
    # A read of the announced size needs no copy; without one, no more memory is used than data arrives.
    step = announced or MIB
    while left > 0 and (piece := body.read(min(step, left))):
        pieces.append(piece)
        left -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
