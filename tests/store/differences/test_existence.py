"""Servers that deny access to absent objects, or ignore conditions."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from puller.errors import ObjectExists, ObjectNotFound, StoreDenied
from puller.repository import repository as repositories
from puller.store.base import Store
from puller.store.wrapping.unconditional import UnconditionalStore
from tests.store.differences.differing import (
    ABSENT,
    UNCONDITIONAL,
    Open,
    deny_absent,
    documented,
    ignore_conditions,
    when,
)
from tests.store.scripted import LARGE, Answer, Request, s3_error
from tests.store.stub import Stub, key_of, stub_server


class TestAbsence:
    """Ceph denies access to absent objects under a right to list that is limited to a prefix."""

    @pytest.mark.parametrize(
        ("verb", "ask"),
        [
            ("read", lambda store: store.get("a")),
            ("read", lambda store: store.get_range("a", 0, 1)),
            ("read", lambda store: store.get_tail("a", 1)),
            ("look up", lambda store: store.stat("a")),
            ("look up", lambda store: store.locks.lock_of("a")),
        ],
    )
    def test_is_confirmed_by_a_listing(self, opened: Open, verb: str, ask: Callable[[Store], object]) -> None:
        with stub_server(deny_absent) as stub:
            it = opened(stub)
            it.store.put("ab", b"")  # is not a
            for _ in range(2):
                with pytest.raises(ObjectNotFound) as caught:
                    ask(it.store)
        where = f"bucket bucket at {stub.endpoint}"
        assert caught.value.message == f"cannot {verb} a in {where}: there is no such object"
        it.store._differences.tell(it.store.scope)
        assert it.notices == [documented(ABSENT)]

    def test_a_repository_is_created(self, opened: Open) -> None:
        with stub_server(deny_absent) as stub:
            it = opened(stub)
            repositories.create(it.retrying, None)
            assert repositories.open_repository(it.retrying, None).descriptor.conditional_writes
        assert it.notices == [ABSENT]

    @pytest.mark.parametrize("asked", ["GetObject", "HeadObject"])
    def test_an_object_that_exists_stays_denied(self, opened: Open, asked: str) -> None:
        with stub_server(when(asked, Answer(403))) as stub:
            it = opened(stub)
            it.store.put("a", b"")
            with pytest.raises(StoreDenied, match=r"a in bucket .*: Forbidden \(403\)"):
                (it.store.stat if asked == "HeadObject" else it.store.get)("a")
        assert it.notices == []

    def test_a_listing_says_why_a_lookup_is_refused(self, opened: Open) -> None:
        """A HEAD has no body."""

        def quirk(stub: Stub, request: Request) -> Answer | None:
            refused = s3_error(403, "InvalidAccessKeyId", "The key does not exist.")
            return Answer(403) if request.method == "HEAD" else refused

        with stub_server(quirk) as stub, pytest.raises(StoreDenied) as caught:
            opened(stub).store.stat("a")
        where = f"bucket bucket at {stub.endpoint}"
        assert (
            caught.value.message
            == f"cannot look up a in {where}: The key does not exist (InvalidAccessKeyId)"
        )


class TestConditions:
    def test_the_look_before_an_unconditional_put_is_a_listing(self, opened: Open) -> None:
        def quirk(stub: Stub, request: Request) -> Answer | None:
            return s3_error(501, "NotImplemented") if "if-none-match" in request.headers else None

        with stub_server(quirk) as stub:
            store = UnconditionalStore(opened(stub).retrying)
            store.put_new("a", b"first")
            with pytest.raises(ObjectExists, match="a exists already in s3://bucket/kvm"):
                store.put_new("a", b"second")
            assert stub.operations == ["ListObjectsV2", "PutObject", "ListObjectsV2"]
            assert not repositories.create(opened(stub).retrying, None).descriptor.conditional_writes

    def test_no_longer_honoured(self, opened: Open) -> None:
        with stub_server() as stub:
            repositories.create(opened(stub).retrying, None)
            stub.quirk = ignore_conditions
            stub.requests.clear()
            it = opened(stub)
            repository = repositories.open_repository(it.retrying, None)
            for number in range(3):
                repository.store.put_new(f"pending/{number}", b"content")
            assert stub.operations.count("PutObject") == 4
            assert stub.objects["kvm/pending/0"] == b"content"
        assert it.notices == [documented(UNCONDITIONAL)]

    def test_honoured(self, opened: Open) -> None:
        with stub_server() as stub:
            it = opened(stub)
            it.store.put_new("large", bytes(LARGE))
            for name in ("a", "b"):
                it.store.put_new(name, b"content")
            assert stub.operations == ["PutObject"] * 4
        assert it.notices == []

    def test_an_outage_meanwhile_proves_nothing(self, opened: Open) -> None:
        def quirk(stub: Stub, request: Request) -> Answer | None:
            repeated = key_of(request) in stub.objects
            return s3_error(503, "SlowDown") if repeated and len(stub.requests) < 3 else None

        with stub_server(quirk) as stub:
            it = opened(stub)
            for name in ("a", "b", "c"):
                it.store.put_new(name, b"content")
            assert stub.operations == ["PutObject"] * 5
        assert it.notices == []
