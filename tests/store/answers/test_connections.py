"""Redirects, ``Expect``, proxies and certificates."""

from __future__ import annotations

import os
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from puller.errors import StoreDenied, StoreError
from puller.store.options import StoreOptions
from puller.store.s3.client.client import connect
from tests.store.answers.answering import Connect, raised
from tests.store.certificates import make_certificate
from tests.store.scripted import HEADERS, LARGE, ONCE, OPERATIONS, Answer, s3_error, scripted_server


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
