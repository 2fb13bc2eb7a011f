"""What is particular to S3: configuration, failures and what they are called."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from puller.errors import (
    NoBucket,
    ObjectChanged,
    ObjectExists,
    ObjectNotFound,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnavailable,
    UnsupportedByStore,
    UsageError,
)
from puller.store.base import Store
from puller.store.location import open_store
from puller.store.probe import honours_put_if_absent
from puller.store.s3.client.client import connect
from puller.store.s3.s3 import S3Store
from tests.lab.seaweed import Seaweed
from tests.store.certificates import make_certificate
from tests.store.scripted import (
    HEADERS,
    LARGE,
    ONCE,
    OPERATIONS,
    Answer,
    ScriptedServer,
    s3_error,
    scripted_server,
)


def assert_each_raises(store: Store, kind: type[StoreError], words: str) -> StoreError:
    """Try every operation; all must fail alike. Return the last one's error."""
    for name, operation in OPERATIONS.items():
        with pytest.raises(StoreError, match=re.escape(words)) as caught:
            operation(store)
        assert type(caught.value) is kind, name
    return caught.value


@pytest.fixture
def bucket(seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return a new bucket, on the server that S3 clients of this process find."""
    seaweed.use(monkeypatch)
    name = f"bucket-{uuid4().hex[:12]}"
    seaweed.make_bucket(name)
    return name


@pytest.fixture
def at(seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], S3Store]:
    """Return what opens a store at an endpoint, which tries each request once."""

    def open_at(endpoint: str) -> S3Store:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
        return connect("bucket", "prefix", ONCE)

    seaweed.use(monkeypatch)
    return open_at


class TestPlace:
    def test_at_the_root_of_a_bucket(self, seaweed: Seaweed, bucket: str) -> None:
        store = open_store(f"s3://{bucket}")
        store.put("packs/00/a", b"content")
        assert [info.key for info in store.list("")] == ["packs/00/a"]
        assert seaweed.client().get_object(Bucket=bucket, Key="packs/00/a")["Body"].read() == b"content"
        assert store.url == f"s3://{bucket}"

    def test_a_prefix_keeps_to_itself(self, seaweed: Seaweed, bucket: str) -> None:
        store = open_store(f"s3://{bucket}/deep/prefix/")
        client = seaweed.client()
        for key in ("deep/prefix2/a", "deep/a", "a"):
            client.put_object(Bucket=bucket, Key=key, Body=b"foreign")
        store.put("a", b"ours")
        store.delete(["b"])
        assert [info.key for info in store.list("")] == ["a"]
        assert store.get("a") == b"ours"
        assert client.get_object(Bucket=bucket, Key="deep/prefix/a")["Body"].read() == b"ours"
        assert store.url == f"s3://{bucket}/deep/prefix"

    def test_foreign_names_are_not_listed(self, seaweed: Seaweed, bucket: str) -> None:
        store = open_store(f"s3://{bucket}/repo")
        store.put("points/a", b"")
        for key in ("repo/points/.b", "repo/.c/d", "repo/points/e.tmp-1", "repo/folder/"):
            seaweed.client().put_object(Bucket=bucket, Key=key, Body=b"")
        assert [info.key for info in store.list("")] == ["points/a"]


class TestRefusals:
    def test_no_bucket(self, seaweed: Seaweed, bucket: str) -> None:
        store = connect(f"{bucket}-not", "", ONCE)
        assert_each_raises(store, NoBucket, f"bucket {bucket}-not at {seaweed.endpoint}")

    @pytest.mark.parametrize("variable", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
    def test_wrong_credentials(
        self, seaweed: Seaweed, bucket: str, monkeypatch: pytest.MonkeyPatch, variable: str
    ) -> None:
        monkeypatch.setenv(variable, "wrong-one")
        store = connect(bucket, "", ONCE)
        error = assert_each_raises(store, StoreDenied, f"bucket {bucket} at {seaweed.endpoint}")
        assert not error.retryable
        assert "wrong-one" not in str(error)

    def test_no_credentials(self, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        with pytest.raises(StoreDenied, match=bucket) as caught:
            connect(bucket, "").get("a")
        assert "AWS_ACCESS_KEY_ID" in caught.value.advice

    @pytest.mark.parametrize(
        ("variable", "value"), [("AWS_PROFILE", "not-there"), ("AWS_ENDPOINT_URL_S3", "no url")]
    )
    def test_senseless_environment(
        self, bucket: str, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
    ) -> None:
        monkeypatch.setenv(variable, value)
        with pytest.raises(UsageError, match=value) as caught:
            connect(bucket, "")
        assert variable in caught.value.advice

    @pytest.mark.parametrize(
        ("status", "code", "kind", "retryable"),
        [
            (400, "ExpiredToken", StoreDenied, False),
            (403, "AccessDenied", StoreDenied, False),
            (403, "InvalidObjectState", StoreDenied, False),
            (403, "RequestTimeTooSkewed", StoreDenied, False),
            (403, "QuotaExceeded", StoreFull, False),
            (507, "XMinioStorageFull", StoreFull, False),
            (409, "ConditionalRequestConflict", StoreUnavailable, True),
            (429, "TooManyRequests", StoreUnavailable, True),
            (500, "InternalError", StoreUnavailable, True),
            (503, "SlowDown", StoreUnavailable, True),
            (501, "NotImplemented", UnsupportedByStore, False),
            (400, "InvalidArgument", StoreError, False),
        ],
    )
    def test_answers(
        self, at: Callable[[str], S3Store], status: int, code: str, kind: type[StoreError], retryable: bool
    ) -> None:
        with scripted_server(s3_error(status, code, "It is\n so.")) as server:
            store = at(server.endpoint)
            for operation in ("get", "put", "put large", "put_new", "list", "delete"):
                with pytest.raises(StoreError) as caught:
                    OPERATIONS[operation](store)
                assert (type(caught.value), caught.value.retryable) == (kind, retryable)
                assert str(caught.value).endswith(f"in bucket bucket at {server.endpoint}: It is so ({code})")

    def test_archived_object(self, at: Callable[[str], S3Store]) -> None:
        with (
            scripted_server(s3_error(403, "InvalidObjectState")) as server,
            pytest.raises(StoreDenied) as caught,
        ):
            at(server.endpoint).get("packs/00/a")
        assert "archive tier" in caught.value.advice
        assert "lifecycle" in caught.value.advice

    def test_some_keys_cannot_be_deleted(self, at: Callable[[str], S3Store]) -> None:
        refused = b"<Error><Key>prefix/a</Key><Code>AccessDenied</Code><Message>Locked.</Message></Error>"
        body = b"<DeleteResult>" + refused + b"</DeleteResult>"
        with scripted_server(Answer(200, body), Answer(200, b"<DeleteResult/>")) as server:
            with pytest.raises(StoreDenied, match=r"prefix/a: Locked \(AccessDenied\)"):
                at(server.endpoint).delete(f"{number}" for number in range(1001))
            assert len(server.requests) == 2


def test_an_empty_object_replaced_while_its_tail_is_read(at: Callable[[str], S3Store]) -> None:
    filled = Answer(200, headers=HEADERS, announced=5)
    replaced = s3_error(412, "PreconditionFailed")
    with (
        scripted_server(s3_error(416, "InvalidRange"), filled, replaced) as server,
        pytest.raises(ObjectChanged),
    ):
        at(server.endpoint).get_tail("a", 10)
    assert server.requests[-1].headers["if-match"] == HEADERS["ETag"]


class TestOutage:
    def test_nobody_listens(self, at: Callable[[str], S3Store]) -> None:
        with scripted_server(Answer()) as server:
            endpoint = server.endpoint
        error = assert_each_raises(at(endpoint), StoreUnavailable, f"bucket bucket at {endpoint}")
        assert error.retryable
        assert error.exit_code == 14

    def test_server_dies_and_comes_back(self, seaweed: Seaweed, bucket: str) -> None:
        store = connect(bucket, "", ONCE)
        content = os.urandom(LARGE)
        store.put("a", content)
        seaweed.stop()
        with pytest.raises(StoreUnavailable):
            store.get("a")
        seaweed.restart()
        assert store.get("a") == content

    def test_a_body_that_breaks_off_is_read_again(self, at: Callable[[str], S3Store]) -> None:
        broken = Answer(200, b"half", HEADERS, announced=8)
        with scripted_server(broken, broken, Answer(200, b"complete", HEADERS)) as server:
            assert at(server.endpoint).get("a") == b"complete"

    def test_a_body_that_breaks_off_every_time(self, at: Callable[[str], S3Store]) -> None:
        with (
            scripted_server(Answer(200, b"half", HEADERS, announced=8)) as server,
            pytest.raises(StoreUnavailable, match="cannot read a in bucket"),
        ):
            at(server.endpoint).get("a")

    def test_a_lost_answer_may_look_like_an_object_that_exists(self, bucket: str) -> None:
        """The documented trap of ``put_new``: the caller has to compare."""
        store = connect(bucket, "")
        repeat_every_put(store)
        with pytest.raises(ObjectExists):
            store.put_new("points/a", b"mine")
        assert store.get("points/a") == b"mine"
        assert honours_put_if_absent(store, "locks/probe-")

    def test_behind_a_proxy_that_is_not_there(
        self, at: Callable[[str], S3Store], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("NO_PROXY", "")
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
        with pytest.raises(StoreUnavailable) as caught:
            at("http://127.0.0.1:2").get("a")
        assert "HTTP_PROXY" in caught.value.advice


def repeat_every_put(store: S3Store) -> None:
    """Make the client believe that the first answer to each put was 503, as after a lost one."""

    def respond(response: object, attempts: int, **_: object) -> Any:
        return 0 if response is not None and attempts == 1 else None

    store._client.meta.events.register_first("needs-retry.s3.PutObject", respond)


class TestWhatServersDoNotDo:
    def test_ranges_ignored(self, at: Callable[[str], S3Store]) -> None:
        with scripted_server(Answer(200, b"0123456789", HEADERS)) as server:
            with pytest.raises(UnsupportedByStore, match="part"):
                at(server.endpoint).get_range("a", 2, 3)
            with pytest.raises(UnsupportedByStore, match="part"):
                at(server.endpoint).get_tail("a", 3)

    def test_condition_ignored(self, at: Callable[[str], S3Store]) -> None:
        with scripted_server(Answer(200)) as server:
            assert not honours_put_if_absent(at(server.endpoint), "locks/probe-")
            # The second put is the store's own, which notices a condition that is no longer honoured.
            assert [request.method for request in server.requests] == ["PUT", "PUT", "PUT", "POST"]

    def test_condition_answered_and_ignored(self, at: Callable[[str], S3Store]) -> None:
        replaced = Answer(200, b"not the first content", HEADERS)
        deleted = Answer(200, b"<DeleteResult/>")
        refused = s3_error(412, "PreconditionFailed")
        with scripted_server(Answer(), refused, refused, replaced, deleted) as server:
            assert not honours_put_if_absent(at(server.endpoint), "locks/probe-")

    def test_condition_refused(self, at: Callable[[str], S3Store]) -> None:
        with scripted_server(s3_error(501, "NotImplemented"), Answer(200, b"<DeleteResult/>")) as server:
            assert not honours_put_if_absent(at(server.endpoint), "locks/probe-")

    def test_probe_tells_a_store_that_fails(self, at: Callable[[str], S3Store]) -> None:
        with scripted_server(s3_error(403, "AccessDenied")) as server, pytest.raises(StoreDenied):
            honours_put_if_absent(at(server.endpoint), "locks/probe-")


class TestRequests:
    def test_no_default_checksums_and_a_signed_body_without_tls(self, at: Callable[[str], S3Store]) -> None:
        for body in (b"small", bytes(LARGE)):
            with scripted_server(Answer()) as server:
                at(server.endpoint).put("a", body)
            (request,) = server.requests
            assert request.path == "/bucket/prefix/a"
            assert request.body == body
            assert request.headers["content-length"] == str(len(body))
            assert request.headers["x-amz-content-sha256"] == hashlib.sha256(body).hexdigest()
            assert not [name for name in request.headers if "checksum" in name or name == "transfer-encoding"]

    def test_a_put_is_tried_again_from_its_first_byte(
        self, seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seaweed.use(monkeypatch)
        for body in (b"small", os.urandom(LARGE)):
            with scripted_server(s3_error(503, "SlowDown"), Answer()) as server:
                monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.endpoint)
                connect("bucket", "").put("a", memoryview(body))
            assert [request.body == body for request in server.requests] == [True, True]

    def test_a_region_is_not_needed(
        self, at: Callable[[str], S3Store], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("AWS_DEFAULT_REGION")
        with scripted_server(Answer()) as server:
            at(server.endpoint).put("a", b"")
            assert "/us-east-1/s3/" in server.requests[0].headers["authorization"]

    def test_small_bodies_do_not_wait_to_be_asked_for(self, at: Callable[[str], S3Store]) -> None:
        with scripted_server(Answer()) as server:
            at(server.endpoint).put("a", b"small")
            assert "expect" not in server.requests[0].headers

    def test_a_checksum_where_object_lock_asks_for_one(self, at: Callable[[str], S3Store]) -> None:
        demand = "Content-MD5 OR x-amz-checksum- HTTP header is required for Put Object requests"
        body = memoryview(os.urandom(LARGE))
        with scripted_server(s3_error(400, "InvalidRequest", demand), Answer()) as server:
            store = at(server.endpoint)
            store.put("a", body)
            store.put_new("b", body)
        refused, *accepted = server.requests
        assert "x-amz-checksum-sha256" not in refused.headers
        expected = base64.b64encode(hashlib.sha256(body).digest()).decode()
        assert [request.headers["x-amz-checksum-sha256"] for request in accepted] == [expected] * 2
        assert {request.headers["x-amz-sdk-checksum-algorithm"] for request in accepted} == {"SHA256"}
        assert [request.body == body for request in accepted] == [True] * 2

    def test_deletes_carry_the_md5_that_old_servers_ask_for(self, at: Callable[[str], S3Store]) -> None:
        with scripted_server(Answer(200, b"<DeleteResult/>")) as server:
            at(server.endpoint).delete(["a"])
            (request,) = server.requests
        assert request.headers["content-md5"] == base64.b64encode(hashlib.md5(request.body).digest()).decode()

    def test_credentials_in_the_endpoint_are_not_told(self, at: Callable[[str], S3Store]) -> None:
        with scripted_server(s3_error(403, "AccessDenied")) as server:
            endpoint = server.endpoint.replace("//", "//user:hunter2@")
            with pytest.raises(StoreDenied) as caught:
                at(endpoint).get("a")
        assert "hunter2" not in str(caught.value)


class TestTls:
    @pytest.fixture
    def tls(self, tmp_path: Path) -> Iterator[ScriptedServer]:
        certificate = make_certificate(tmp_path / "server.pem")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        with scripted_server(Answer(), tls=context) as server:
            yield server

    def test_body_is_not_signed(
        self,
        tls: ScriptedServer,
        at: Callable[[str], S3Store],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "server.pem"))
        store = at(tls.endpoint)
        body = os.urandom(LARGE)
        store.put("a", body)
        (request,) = tls.requests
        assert request.headers["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"
        assert request.body == body

    def test_unknown_authority(self, tls: ScriptedServer, at: Callable[[str], S3Store]) -> None:
        assert_certificate_advice(at(tls.endpoint))

    def test_bundle_is_not_there(
        self, tls: ScriptedServer, at: Callable[[str], S3Store], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_CA_BUNDLE", "/not/there.pem")
        assert_certificate_advice(at(tls.endpoint))

    def test_server_without_tls(self, at: Callable[[str], S3Store]) -> None:
        with scripted_server(Answer()) as server:
            assert_certificate_advice(at(server.endpoint.replace("http:", "https:")))


def assert_certificate_advice(store: Store) -> None:
    with pytest.raises(StoreError) as caught:
        store.get("a")
    assert not caught.value.retryable
    assert "AWS_CA_BUNDLE" in caught.value.advice


def test_absent_objects_stay_absent_where_the_bucket_is_there(bucket: str) -> None:
    store = connect(bucket, "prefix")
    with pytest.raises(ObjectNotFound, match=f"cannot look up points/a in bucket {bucket}"):
        store.stat("points/a")
