"""A small S3 server with objects, which differs from AWS in the way that a test chooses."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ssl import SSLContext
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from tests.store.scripted import Answer, Request, ScriptedServer, s3_error, serving

MODIFIED = "Mon, 23 Nov 2026 05:00:00 GMT"
BUCKET = "bucket"


class Stub(ScriptedServer):
    """Serves one bucket. ``quirk`` sees each request first; what it returns is the answer, unless None."""

    def __init__(self, quirk: Quirk, tls: SSLContext | None, expectation: str) -> None:
        super().__init__([], tls, expectation)
        self.quirk = quirk
        self.objects: dict[str, bytes] = {}
        self._guard = threading.Lock()

    def next_answer(self, request: Request) -> Answer:
        with self._guard:
            self.requests.append(request)
            return self.quirk(self, request) or self.serve(request)

    def serve(self, request: Request) -> Answer:
        """Answer as AWS does."""
        serve = {
            "ListObjectsV2": self._list,
            "DeleteObjects": self._delete_all,
            "PutObject": self._put,
            "DeleteObject": self._delete,
            "GetObject": self._get,
            "HeadObject": self._get,
        }.get(operation(request))
        return Answer(200) if serve is None else serve(request)

    @property
    def operations(self) -> list[str]:
        """The operations that were asked for, in order."""
        return [operation(request) for request in self.requests]

    def is_absent(self, request: Request) -> bool:
        """Whether the request reads an object that does not exist."""
        return operation(request) in {"GetObject", "HeadObject"} and key_of(request) not in self.objects

    def _put(self, request: Request) -> Answer:
        key = key_of(request)
        if "if-none-match" in request.headers and key in self.objects:
            return s3_error(412, "PreconditionFailed")
        self.objects[key] = request.body
        return Answer(200, headers={"ETag": etag(request.body)})

    def _delete(self, request: Request) -> Answer:
        self.objects.pop(key_of(request), None)
        return Answer(204)

    def _get(self, request: Request) -> Answer:
        content = self.objects.get(key_of(request))
        if content is None:
            return Answer(404) if request.method == "HEAD" else s3_error(404, "NoSuchKey")
        headers = {"ETag": etag(content), "Last-Modified": MODIFIED}
        if request.headers.get("if-match", headers["ETag"]) != headers["ETag"]:
            return s3_error(412, "PreconditionFailed")
        wanted = request.headers.get("range")
        if wanted is None:
            return Answer(200, content, headers)
        start, end = bounds(wanted, len(content))
        if start >= len(content):
            return s3_error(416, "InvalidRange")
        place = f"bytes {start}-{end - 1}/{len(content)}"
        return Answer(206, content[start:end], {**headers, "Content-Range": place})

    def _list(self, request: Request) -> Answer:
        query = parse_qs(urlsplit(request.path).query)
        most, prefix = int(query.get("max-keys", ["1000"])[0]), query.get("prefix", [""])[0]
        names = [name for name in sorted(self.objects) if name.startswith(prefix)]
        entries = "".join(entry(name, self.objects[name]) for name in names[:most])
        return Answer(200, f"<ListBucketResult>{entries}</ListBucketResult>".encode())

    def _delete_all(self, request: Request) -> Answer:
        for name in re.findall("<Key>(.*?)</Key>", request.body.decode()):
            self.objects.pop(name, None)
        return Answer(200, b"<DeleteResult/>")


Quirk = Callable[[Stub, Request], Answer | None]


def operation(request: Request) -> str:
    """Return the name of the operation in the API."""
    parts = urlsplit(request.path)
    if parts.path.strip("/") == BUCKET:
        return {"GET": _query_operation(parts.query), "POST": "DeleteObjects"}.get(
            request.method, "HeadBucket"
        )
    return f"{request.method.capitalize()}Object"


def _query_operation(query: str) -> str:
    return "ListObjectsV2" if "list-type" in query else query.partition("=")[0]


def key_of(request: Request) -> str:
    """Return the key, with the prefix of the store."""
    return unquote(urlsplit(request.path).path).removeprefix(f"/{BUCKET}/")


def bounds(wanted: str, size: int) -> tuple[int, int]:
    """Return the start and the end of a range, cut to the ``size`` of the object."""
    first, _, last = wanted.removeprefix("bytes=").partition("-")
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(size, int(last) + 1)


def etag(content: bytes) -> str:
    """Return the ETag that AWS gives."""
    return f'"{hashlib.md5(content).hexdigest()}"'


def entry(name: str, content: bytes) -> str:
    """Return an entry of a listing."""
    return (
        f"<Contents><Key>{escape(name)}</Key><Size>{len(content)}</Size>"
        f"<LastModified>2026-11-23T05:00:00Z</LastModified><ETag>{escape(etag(content))}</ETag></Contents>"
    )


def as_others(stub: Stub, request: Request) -> Answer | None:
    """Differ in nothing."""
    return None


@contextmanager
def stub_server(
    quirk: Quirk = as_others, tls: SSLContext | None = None, expectation: str = "met"
) -> Iterator[Stub]:
    """Run a server that has this ``quirk``; the rest is as in ``scripted_server``."""
    with serving(Stub(quirk, tls, expectation)) as server:
        yield server
