"""Servers that differ from AWS, and what puller says about them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from puller.cancelling import CancelScope
from puller.store.base import Store
from puller.store.s3.s3 import S3Store
from puller.store.wrapping.retrying import RetryingStore
from tests.store.scripted import Answer, Request, s3_error
from tests.store.stub import Quirk, Stub, key_of, operation

PROVIDERS = Path(__file__).parents[3] / "docs" / "providers.md"


@dataclass
class Opened:
    """A store on a stub, and the notices that its observer received."""

    store: S3Store
    notices: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = self.store.within(CancelScope(observer=self.notices.append))

    @property
    def retrying(self) -> Store:
        return RetryingStore(self.store, self.store.scope)


Open = Callable[[Stub], Opened]


def documented(notice: str) -> str:
    """Return a notice that docs/providers.md has in these words."""
    assert f"`{notice}`" in PROVIDERS.read_text()
    return notice


ONE_BY_ONE = "the server does not delete several objects in one request: they are deleted one by one"
ABSENT = "the server denies access to objects that do not exist: listings confirm that they are absent"
UNCONDITIONAL = (
    "the server honoured conditional writes at 'init' and no longer does, so it may replace an object "
    "that should be new"
)


def refuse_long(stub: Stub, request: Request) -> Answer | None:
    """As rclone does."""
    length = request.headers.get("range", "").removeprefix("bytes=-")
    too_long = length.isdigit() and int(length) > len(stub.objects.get(key_of(request), b""))
    return s3_error(416, "InvalidRange") if too_long else None


def deny_absent(stub: Stub, request: Request) -> Answer | None:
    denied = Answer(403) if request.method == "HEAD" else s3_error(403, "AccessDenied", "")
    return denied if stub.is_absent(request) or operation(request) == "HeadBucket" else None


def ignore_conditions(stub: Stub, request: Request) -> Answer | None:
    """Ceph does it once versioning is switched on."""
    request.headers.pop("if-none-match", None)
    return None


def differ(stub: Stub, request: Request) -> Answer | None:
    """Have the differences of Ceph once versioning is switched on, and those of rclone."""
    ignore_conditions(stub, request)
    if operation(request) == "DeleteObjects":
        return s3_error(403, "AccessDenied", "")
    return deny_absent(stub, request) or refuse_long(stub, request)


def when(asked: str, answer: Answer) -> Quirk:
    """Give ``answer`` to this operation, and the usual answers to all others."""
    return lambda stub, request: answer if operation(request) == asked else None
