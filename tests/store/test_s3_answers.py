"""Answers that no AWS gives: fields that are missing, sizes that are lies, redirects, hang-ups, proxies."""

from __future__ import annotations

import json
import os
import ssl
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from puller.errors import (
    DamagedData,
    ObjectExists,
    PullerError,
    StoreDenied,
    StoreError,
    StoreUnavailable,
    UnsupportedByStore,
    UsageError,
)
from puller.repository import repository as repositories
from puller.repository.format.footer import PackKind
from puller.repository.keys import key_slots as slots
from puller.repository.keys.key_slots import KeyFile
from puller.repository.records.condemned import ALL, CondemnedSlots
from puller.store.base import Store
from puller.store.options import StoreOptions
from puller.store.retrying import RetryingStore
from puller.store.s3.client import connect
from puller.store.s3.s3 import S3Store
from tests.lab.seaweed import Seaweed
from tests.store.certificates import make_certificate
from tests.store.scripted import HEADERS, LARGE, ONCE, OPERATIONS, Answer, s3_error, scripted_server

Connect = Callable[[str], S3Store]


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Connect:
    """Return what opens a store at an endpoint, which tries each request once."""

    def open_at(endpoint: str) -> S3Store:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
        return connect("bucket", "prefix", ONCE)

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return open_at


def raised(operation: Callable[[Store], object], store: Store) -> PullerError:
    with pytest.raises(PullerError) as caught:
        operation(store)
    assert caught.value.advice
    return caught.value


@contextmanager
def taking_at_most(limit: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


class TestSizes:
    """No more is read than was asked for, whatever is announced."""

    @pytest.mark.parametrize("chunked", [False, True])
    def test_more_than_was_asked_for(self, at: Connect, chunked: bool) -> None:
        body = bytes(64 << 20)
        part = {**HEADERS, "Content-Range": f"bytes 0-{len(body) - 1}/{len(body)}"}
        with scripted_server(Answer(206, body, part, chunked=chunked)) as server:
            store = at(server.endpoint)
            with taking_at_most(8 << 20):
                self._refuse(store)

    @staticmethod
    def _refuse(store: S3Store) -> None:
        with pytest.raises(DamagedData, match="but at most 65536 are plausible"):
            store.get("a", max_size=1 << 16)
        for read in (partial(store.get_range, "a", 0), partial(store.get_tail, "a")):
            with pytest.raises(UnsupportedByStore, match="65536"):
                read(1 << 16)

    def test_the_whole_in_place_of_a_part_is_not_read(self, at: Connect) -> None:
        with scripted_server(Answer(200, bytes(64 << 20), HEADERS)) as server:
            store = at(server.endpoint)
            with taking_at_most(8 << 20), pytest.raises(UnsupportedByStore, match="with the whole"):
                store.get_range("a", 0, 1 << 16)

    def test_no_size_is_announced(self, at: Connect) -> None:
        part = {**HEADERS, "Content-Range": "bytes 0-6/7"}
        with scripted_server(Answer(206, b"content", part, chunked=True)) as server:
            store = at(server.endpoint)
            assert store.get("a") == b"content"
            assert store.get("a", max_size=7) == b"content"
            assert store.get_range("a", 0, 7) == b"content"
            content, info = store.get_tail("a", 7)
            assert (content, info.size) == (b"content", 7)


class TestMissingFields:
    @pytest.mark.parametrize(
        "body",
        [
            b"<Error><Code>InvalidRange</Code></Error>",
            b"<Error><Code>InvalidArgument</Code><Message/></Error>",
            b"<Error/>",
            b"<html><body>no</body></html>",
            b"not <xml",
            b"",
        ],
    )
    @pytest.mark.parametrize("status", [400, 403, 409, 417, 501, 503])
    def test_an_error_that_says_little(self, at: Connect, status: int, body: bytes) -> None:
        """Ceph's RADOS Gateway sends no message; what stands before a server may send no XML."""
        with scripted_server(Answer(status, body, {"Content-Type": "application/xml"})) as server:
            store = at(server.endpoint)
            for operation in OPERATIONS.values():
                error = raised(operation, store)
                assert isinstance(error, StoreError)
                assert not error.message.endswith((": ", "()", "."))

    def test_an_error_of_a_deletion_that_says_nothing(self, at: Connect) -> None:
        body = b"<DeleteResult><Error><Key>prefix/a</Key></Error></DeleteResult>"
        with scripted_server(Answer(200, body)) as server:
            error = raised(OPERATIONS["delete"], at(server.endpoint))
        assert error.message.endswith("prefix/a: the server gives no reason")

    @pytest.mark.parametrize("body", [b"", b"<VersioningConfiguration/>", b"<Anything/>"])
    def test_a_bucket_that_is_not_described(self, at: Connect, body: bytes) -> None:
        """Swift and rclone answer some questions with nothing at all."""
        with scripted_server(Answer(200, body)) as server:
            bucket = at(server.endpoint).bucket
            assert bucket.lifecycle() == ()
            assert bucket.default_retention() is None
            assert bucket.keeps_versions() is False

    def test_a_bucket_whose_setup_is_refused_without_a_word(self, at: Connect) -> None:
        with scripted_server(Answer(400, b"<Error/>")) as server:
            bucket = at(server.endpoint).bucket
            for question in (bucket.lifecycle, bucket.default_retention, bucket.keeps_versions):
                with pytest.raises(StoreError):
                    question()

    @pytest.mark.parametrize("missing", sorted(HEADERS))
    def test_an_object_without_time_or_etag(self, at: Connect, missing: str) -> None:
        headers = {name: value for name, value in HEADERS.items() if name != missing}
        whole = {**headers, "Content-Range": "bytes 0-0/1"}
        with scripted_server(Answer(206, b"x", whole)) as server:
            store = at(server.endpoint)
            assert store.get("a") == b"x"
            assert store.get_range("a", 0, 1) == b"x"
            for operation in ("stat", "get_tail"):
                assert "sends no " in raised(OPERATIONS[operation], store).message

    def test_a_listing_without_times(self, at: Connect) -> None:
        entry = b"<Contents><Key>prefix/a</Key><Size>1</Size><ETag>1</ETag></Contents>"
        with scripted_server(Answer(200, b"<ListBucketResult>" + entry + b"</ListBucketResult>")) as server:
            assert "sends no time of a" in raised(OPERATIONS["list"], at(server.endpoint)).message

    @pytest.mark.parametrize("etag", [b"1", b"&quot;1&quot;"])
    def test_etags_of_listings_with_and_without_quotes(self, at: Connect, etag: bytes) -> None:
        """rclone's have none, unlike those of its other answers."""
        time = b"<LastModified>2026-11-23T05:00:00.000Z</LastModified>"
        entry = (
            b"<Contents><Key>prefix/a</Key><Size>1</Size><ETag>" + etag + b"</ETag>" + time + b"</Contents>"
        )
        with scripted_server(Answer(200, b"<ListBucketResult>" + entry + b"</ListBucketResult>")) as server:
            assert [info.etag for info in at(server.endpoint).list("")] == ['"1"']

    def test_a_listing_that_is_cut_and_does_not_say_how_to_go_on(self, at: Connect) -> None:
        """The client would take it for the end, and prune for all that there is."""
        body = b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>"
        with scripted_server(Answer(200, body)) as server:
            error = raised(OPERATIONS["list"], at(server.endpoint))
        assert "sends no token for the rest" in error.message

    def test_an_answer_that_is_not_xml(self, at: Connect) -> None:
        with scripted_server(Answer(200, b"not <xml")) as server:
            for operation in ("list", "delete"):
                assert isinstance(raised(OPERATIONS[operation], at(server.endpoint)), StoreError)


class TestRedirects:
    @pytest.mark.parametrize("status", [301, 302, 307, 308])
    def test_an_endpoint_that_redirects(self, at: Connect, status: int) -> None:
        with scripted_server(Answer(status, b"", {"Location": "http://127.0.0.1:1/"})) as server:
            store = at(server.endpoint)
            for operation in OPERATIONS.values():
                error = raised(operation, store)
                assert type(error) is StoreError
                assert "the server redirects to http://127.0.0.1:1/" in error.message
                assert "AWS_ENDPOINT_URL_S3" in error.advice
            assert len(server.requests) <= 2 * len(OPERATIONS)

    @pytest.mark.parametrize(
        ("code", "message"),
        [
            ("IllegalLocationConstraintException", "The x location constraint is incompatible."),
            ("AuthorizationHeaderMalformed", "The region 'x' is wrong; expecting 'eu-central-1'"),
        ],
    )
    def test_a_bucket_of_another_region(self, at: Connect, code: str, message: str) -> None:
        with scripted_server(s3_error(400, code, message)) as server:
            error = raised(OPERATIONS["put"], at(server.endpoint))
        assert (type(error), "AWS_DEFAULT_REGION" in error.advice) == (StoreError, True)

    def test_the_region_is_named_where_the_server_names_it(self, at: Connect) -> None:
        answer = s3_error(400, "IllegalLocationConstraintException")
        named = Answer(400, answer.body, {**answer.headers, "x-amz-bucket-region": "eu-central-1"})
        with scripted_server(named) as server:
            assert "bucket, eu-central-1" in raised(OPERATIONS["put"], at(server.endpoint)).advice


class TestCredentials:
    @pytest.fixture
    def program(self, at: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))

        def use(command: str) -> None:
            (tmp_path / "config").write_text(f"[default]\ncredential_process = {command}\n")

        return use

    def test_a_program_whose_credentials_are_past_their_time(
        self, at: Connect, program: Callable[[str], None], tmp_path: Path
    ) -> None:
        document = {"Version": 1, "AccessKeyId": "a", "SecretAccessKey": "b", "SessionToken": "c"}
        (tmp_path / "given").write_text(json.dumps({**document, "Expiration": "2020-01-01T00:00:00Z"}))
        program(f"cat {tmp_path / 'given'}")
        with scripted_server(Answer()) as server:
            error = raised(OPERATIONS["put"], at(server.endpoint))
        assert (type(error), "credential_process" in error.advice) == (StoreDenied, True)

    @pytest.mark.parametrize("command", ["/not/there", "echo garbage", "echo '{}'", "false"])
    def test_a_program_that_does_not_work(
        self, at: Connect, program: Callable[[str], None], command: str
    ) -> None:
        program(command)
        with scripted_server(Answer()) as server, pytest.raises((UsageError, StoreError)) as caught:
            at(server.endpoint).put("a", b"")
        assert caught.value.advice


class TestClient:
    @pytest.mark.parametrize(
        "kind", [KeyError, TypeError, AttributeError, OSError, ValueError, RecursionError]
    )
    def test_whatever_the_client_raises_is_a_store_error(
        self, at: Connect, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
    ) -> None:
        with scripted_server(Answer()) as server:
            store = at(server.endpoint)

            def fail(*_: object, **__: object) -> None:
                raise kind("of the client's")

            monkeypatch.setattr(store._client, "_make_api_call", fail)
            for operation in OPERATIONS.values():
                error = raised(operation, store)
                assert (type(error), "of the client's" in error.message) == (StoreError, True)


class TestExpectations:
    @pytest.mark.parametrize("expectation", ["refused", "dropped"])
    def test_a_server_that_does_not_say_go_on(self, at: Connect, expectation: str) -> None:
        body = os.urandom(LARGE)
        with scripted_server(Answer(), expectation=expectation) as server:
            store = at(server.endpoint)
            store.put("a", body)
            store.put_new("b", memoryview(body))
        assert [request.body == body for request in server.requests] == [True, True]
        assert not [request for request in server.requests if "expect" in request.headers]

    def test_all_puts_that_were_on_their_way_are_sent_again(
        self, at: Connect, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with scripted_server(Answer(), expectation="refused") as server:
            store = at(server.endpoint)
            put, refused = store._client.put_object, threading.Barrier(2)

            def put_beside_another(**request: Any) -> object:
                try:
                    return put(**request)
                except ClientError:
                    refused.wait(60)
                    raise

            monkeypatch.setattr(store._client, "put_object", put_beside_another)
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(lambda key: store.put(key, bytes(LARGE)), ["a", "b"]))
        assert len(server.requests) == 2

    def test_others_are_asked_before_a_large_body_is_sent(self, at: Connect) -> None:
        with scripted_server(Answer()) as server:
            at(server.endpoint).put("a", bytes(LARGE))
        assert [request.headers["expect"] for request in server.requests] == ["100-continue"]

    def test_a_server_that_has_accepted_a_large_body_is_not_asked_again_until_it_refuses_one(
        self, at: Connect
    ) -> None:
        answers = Answer(), Answer(), s3_error(403, "AccessDenied"), Answer()
        with scripted_server(*answers) as server:
            store = at(server.endpoint)
            for key in ("a", "b"):
                store.put(key, bytes(LARGE))
            with pytest.raises(StoreDenied):
                store.put("c", bytes(LARGE))
            store.put("d", bytes(LARGE))
            store.put("e", bytes(LARGE))
        asked = ["expect" in request.headers for request in server.requests]
        assert asked == [True, False, False, True, False]


class TestProxies:
    @pytest.mark.parametrize("status", [403, 407])
    @pytest.mark.parametrize("endpoint", ["http://10.255.255.1", "https://10.255.255.1"])
    def test_a_refusal_of_a_proxy(
        self, at: Connect, monkeypatch: pytest.MonkeyPatch, status: int, endpoint: str
    ) -> None:
        with scripted_server(Answer(status, b"<html>no</html>", {"Content-Type": "text/html"})) as proxy:
            for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
                monkeypatch.setenv(name, proxy.endpoint)
            for name in ("NO_PROXY", "no_proxy"):
                monkeypatch.setenv(name, "")
            store = at(endpoint)
            for operation in OPERATIONS.values():
                error = raised(operation, store)
                assert (type(error), "the proxy refuses the request: " in error.message) == (StoreError, True)
                assert "HTTP_PROXY" in error.advice
                assert "policy" not in error.advice

    def test_a_refusal_of_the_server_behind_a_proxy(
        self, at: Connect, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        answer = s3_error(403, "AccessDenied")
        denied = Answer(403, answer.body, {**answer.headers, "x-amz-request-id": "1"})
        with scripted_server(denied) as proxy:
            for name in ("HTTP_PROXY", "http_proxy"):
                monkeypatch.setenv(name, proxy.endpoint)
            for name in ("NO_PROXY", "no_proxy"):
                monkeypatch.setenv(name, "")
            error = raised(OPERATIONS["get"], at("http://10.255.255.1"))
        assert (type(error), "policy" in error.advice) == (StoreDenied, True)


class TestCertificates:
    @pytest.mark.parametrize(
        ("name", "days", "advice"),
        [
            ("127.0.0.1", (-3, -1), "Renew the server's certificate"),
            ("127.0.0.1", (1, 3), "set this host's clock"),
            ("127.0.0.2", (-1, 1), "Use the name in the server's certificate in AWS_ENDPOINT_URL_S3"),
        ],
    )
    def test_one_that_does_not_fit(
        self,
        at: Connect,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        name: str,
        days: tuple[int, int],
        advice: str,
    ) -> None:
        certificate = make_certificate(tmp_path / "server.pem", name, days)
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        with scripted_server(Answer(), tls=context) as server:
            error = raised(OPERATIONS["get"], at(server.endpoint))
        assert (type(error), error.retryable) == (StoreError, False)
        assert advice in error.advice
        assert "AWS_CA_BUNDLE" not in error.advice

    def test_a_bundle_of_ones_own(self, at: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """As the option ``ca-bundle``: it comes before that of the environment."""
        certificate = make_certificate(tmp_path / "server.pem", "127.0.0.1", (-1, 1))
        other = make_certificate(tmp_path / "other.pem", "127.0.0.1", (-1, 1))
        monkeypatch.setenv("AWS_CA_BUNDLE", str(other))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        with scripted_server(Answer(headers=HEADERS), tls=context) as server:
            assert "certificate" in raised(OPERATIONS["put"], at(server.endpoint)).message
            connect("bucket", "prefix", ONCE, StoreOptions(ca_bundle=str(certificate))).put("a", b"body")
            assert [request.path for request in server.requests] == ["/bucket/prefix/a"]


def repeat_every_put(store: S3Store) -> None:
    """Make the client believe that the first answer to each put was 503, as after a lost one."""

    def respond(response: object, attempts: int, **_: object) -> Any:
        return 0 if response is not None and attempts == 1 else None

    store._client.meta.events.register_first("needs-retry.s3.PutObject", respond)


def test_a_lost_answer_to_a_conditional_put_on_the_wire(at: Connect) -> None:
    """The client tries again by itself and finds what it has put: 412."""
    mine = Answer(200, b"mine", HEADERS)
    lost = s3_error(503, "SlowDown")
    with scripted_server(s3_error(412, "PreconditionFailed"), mine) as server:
        RetryingStore(at(server.endpoint)).put_new("points/a", b"mine")
    with scripted_server(s3_error(412, "PreconditionFailed"), mine) as server, pytest.raises(ObjectExists):
        RetryingStore(at(server.endpoint)).put_new("points/a", b"other")
    with scripted_server(lost) as server, pytest.raises(StoreUnavailable):
        at(server.endpoint).put_new("points/a", b"mine")


@pytest.mark.parametrize("encrypted", [False, True])
def test_whatever_is_put_conditionally_survives_a_lost_answer(
    seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch, encrypted: bool
) -> None:
    """On a real server: descriptor, key slots, records of what is condemned and damaged."""
    seaweed.use(monkeypatch)
    name = f"lost-{encrypted}".lower()
    seaweed.make_bucket(name)
    wire = connect(name, "")
    repeat_every_put(wire)
    with pytest.raises(ObjectExists):
        wire.put_new("locks/a", b"mine")
    secret = KeyFile(b"k" * 32) if encrypted else None
    repository = repositories.create(RetryingStore(wire), secret)
    assert repository.descriptor.conditional_writes
    if secret is not None:
        opened = slots.open_slot(
            repository.store, repository.descriptor.id_bytes, repository.descriptor.id_bytes, secret
        )
        slots.add_slot(repository.store, opened, KeyFile(b"l" * 32), slots.FULL, "")
    repository.condemned.put(False, 1.0, {b"p" * 16: CondemnedSlots(PackKind.DATA, ALL)})
    repository.damaged.put([b"p" * 16])
    assert len(repository.condemned.listed()) == len(repository.damaged.read()) == 1
    assert repositories.open_repository(RetryingStore(wire), secret).id == repository.id
