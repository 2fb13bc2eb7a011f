"""Unsigned bodies, late requests and expired credentials."""

from __future__ import annotations

import datetime
import os
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from puller.errors import StoreDenied
from tests.store.certificates import make_certificate
from tests.store.differences.differing import Open, documented, when
from tests.store.scripted import LARGE, Answer, Request, s3_error
from tests.store.stub import Stub, stub_server


class TestUnsignedBodies:
    NOTICE = "the server refuses unsigned bodies: all bodies are signed, which takes more processor time"

    @pytest.fixture
    def tls(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
        certificate = make_certificate(tmp_path / "server.pem")
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        return context

    @pytest.mark.parametrize("size", [5, LARGE])
    @pytest.mark.parametrize(
        "answer", [s3_error(403, "AccessDenied"), s3_error(501, "NotImplemented"), Answer(400)]
    )
    def test_are_signed_where_that_is_asked_for(
        self, opened: Open, tls: ssl.SSLContext, answer: Answer, size: int
    ) -> None:
        def quirk(stub: Stub, request: Request) -> Answer | None:
            return answer if request.headers["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD" else None

        body = os.urandom(size)
        with stub_server(quirk, tls) as stub:
            it = opened(stub)
            it.store.put("a", body)
            assert it.store.get("a") == body
            it.store.put("b", body)
            assert stub.operations == ["PutObject", "PutObject", "GetObject", "PutObject"]
        assert it.notices == [documented(self.NOTICE)]

    def test_a_denial_of_something_else_stays(self, opened: Open, tls: ssl.SSLContext) -> None:
        with stub_server(when("PutObject", s3_error(403, "AccessDenied")), tls) as stub:
            it = opened(stub)
            with pytest.raises(StoreDenied):
                it.store.put("a", b"")
            assert stub.operations == ["PutObject"] * 2
            assert list(it.store.list("")) == []
            assert stub.requests[-1].headers["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"
        assert it.notices == []

    def test_what_was_accepted_once_is_not_signed(self, opened: Open, tls: ssl.SSLContext) -> None:
        with stub_server(tls=tls) as stub:
            it = opened(stub)
            it.store.put("a", b"")
            stub.quirk = when("PutObject", s3_error(403, "AccessDenied"))
            with pytest.raises(StoreDenied):
                it.store.put("b", b"")
            assert stub.operations == ["PutObject"] * 2


class TestClocks:
    NOTICE = "the server refused a request as too old, after a stall: it was signed again"

    def test_a_request_that_was_too_long_under_way_is_signed_again(
        self, opened: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        times = iter(datetime.datetime(2026, 11, 29, hour) for hour in range(24))
        monkeypatch.setattr("botocore.auth.get_current_datetime", lambda: next(times))

        def quirk(stub: Stub, request: Request) -> Answer | None:
            return s3_error(403, "RequestTimeTooSkewed") if len(stub.requests) == 1 else None

        with stub_server(quirk) as stub:
            it = opened(stub)
            it.store.put("a", bytes(LARGE))
            first, second = (request.headers["x-amz-date"] for request in stub.requests)
        assert first < second
        assert it.notices == [documented(self.NOTICE)]

    def test_a_wrong_clock(self, opened: Open) -> None:
        skewed = s3_error(403, "RequestTimeTooSkewed", "The difference is too large.")

        def quirk(stub: Stub, request: Request) -> Answer | None:
            return Answer(403) if request.method == "HEAD" else skewed

        with stub_server(quirk) as stub:
            it = opened(stub)
            for verb, ask in (("read", it.store.get), ("look up", it.store.stat)):
                with pytest.raises(StoreDenied) as caught:
                    ask("a")
                where = f"bucket bucket at {stub.endpoint}"
                why = "The difference is too large (RequestTimeTooSkewed)"
                assert caught.value.message == f"cannot {verb} a in {where}: {why}"
                assert caught.value.advice == "Set this host's clock; S3 allows 15 minutes of difference."
        assert it.notices == []


class TestTemporaryCredentials:
    NOTICE = "the credentials expired and were read again"

    @pytest.fixture(autouse=True)
    def file(self, opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        self.path = tmp_path / "credentials"
        self.write("old")

    def write(self, token: str) -> None:
        """As a program does that renews them."""
        keys = f"aws_access_key_id = {token}\naws_secret_access_key = b\naws_session_token = {token}\n"
        self.path.write_text(f"[default]\n{keys}")

    @staticmethod
    def refuse_old(stub: Stub, request: Request) -> Answer | None:
        expired = Answer(400) if request.method == "HEAD" else s3_error(400, "ExpiredToken", "It is old.")
        return expired if request.headers["x-amz-security-token"] == "old" else None

    @pytest.mark.parametrize("asked", ["get", "put", "stat", "list"])
    def test_are_read_again(self, opened: Open, asked: str) -> None:
        with stub_server() as stub:
            it = opened(stub)
            it.store.put("a", b"content")
            self.write("new")
            stub.quirk = self.refuse_old
            asks: dict[str, Callable[[], object]] = {
                "get": lambda: it.store.get("a"),
                "put": lambda: it.store.put("a", b"content"),
                "stat": lambda: it.store.stat("a"),
                "list": lambda: list(it.store.list("")),
            }
            asks[asked]()
            refused, *others = [name for name in stub.operations[1:] if name != "HeadBucket"]
            assert others == [refused]
            stub.requests.clear()
            assert it.store.get("a") == b"content"
            assert len(stub.requests) == 1
        assert it.notices == [documented(self.NOTICE)]

    @pytest.mark.parametrize("asked", ["get", "stat"])
    def test_without_new_ones(self, opened: Open, asked: str) -> None:
        with stub_server(self.refuse_old) as stub:
            it = opened(stub)
            with pytest.raises(StoreDenied) as caught:
                (it.store.get if asked == "get" else it.store.stat)("a")
        verb = "read" if asked == "get" else "look up"
        where = f"bucket bucket at {stub.endpoint}"
        assert caught.value.message == f"cannot {verb} a in {where}: It is old (ExpiredToken)"
        assert caught.value.advice == "Renew the temporary credentials, then run the command again."
        assert it.notices == []

    def test_that_cannot_be_read_any_more(self, opened: Open) -> None:
        with stub_server() as stub:
            it = opened(stub)
            it.store.put("a", b"content")
            self.path.write_text("not [an ini file")
            stub.quirk = self.refuse_old
            with pytest.raises(StoreDenied, match=r"It is old \(ExpiredToken\)"):
                it.store.get("a")
