"""Settings of the environment and the AWS profile take precedence over puller's own."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from puller.errors import StoreError
from puller.store.s3.client.client import connect, make_client
from tests.store.certificates import make_certificate
from tests.store.scripted import Answer, s3_error, scripted_server

Configure = Callable[[str], None]


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Configure:
    """Return what writes the default profile."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://s3.example.com")
    return lambda text: void((tmp_path / "config").write_text(f"[default]\n{text}\n"))


def void(_: object) -> None:
    """Drop a value."""


def settings() -> Any:
    return make_client().meta.config


def test_without_a_profile(configure: Configure) -> None:
    found = settings()
    assert found.retries == {"mode": "standard", "total_max_attempts": 2}
    assert found.s3 == {"payload_signing_enabled": False}
    assert found.request_checksum_calculation == found.response_checksum_validation == "when_required"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("max_attempts = 7", {"mode": "standard", "total_max_attempts": 7}),
        ("retry_mode = adaptive", {"mode": "adaptive", "total_max_attempts": 2}),
        ("retry_mode = adaptive\nmax_attempts = 1", {"mode": "adaptive", "total_max_attempts": 1}),
    ],
)
def test_retries(configure: Configure, text: str, expected: dict[str, object]) -> None:
    configure(text)
    assert settings().retries == expected


def test_retries_of_the_environment(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    configure("")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "4")
    with scripted_server(s3_error(503, "SlowDown")) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.endpoint)
        monkeypatch.setattr("time.sleep", lambda _: None)
        with pytest.raises(StoreError):
            connect("bucket", "").get("a")
    assert len(server.requests) == 4


@pytest.mark.parametrize("key", ["request_checksum_calculation", "response_checksum_validation"])
def test_checksums(configure: Configure, key: str) -> None:
    configure(f"{key} = when_supported")
    assert getattr(settings(), key) == "when_supported"


def test_the_section_of_s3(configure: Configure) -> None:
    words = ("addressing_style = virtual", "use_accelerate_endpoint = true", "use_dualstack_endpoint = true")
    configure("\n  ".join(("s3 =", *words)))
    found = settings().s3
    assert found["addressing_style"] == "virtual"
    assert found["use_accelerate_endpoint"] is True
    assert found["use_dualstack_endpoint"] is True
    assert found["payload_signing_enabled"] is False


@pytest.mark.parametrize("signed", [True, False])
def test_signed_bodies(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signed: bool
) -> None:
    configure(f"s3 =\n  payload_signing_enabled = {str(signed).lower()}")
    certificate = make_certificate(tmp_path / "server.pem")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with scripted_server(Answer(), tls=context) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.endpoint)
        connect("bucket", "").put("a", b"")
    assert (server.requests[0].headers["x-amz-content-sha256"] != "UNSIGNED-PAYLOAD") is signed


def test_a_user_who_wants_no_signatures_gets_none(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refusal is then not answered by a signature."""
    configure("s3 =\n  payload_signing_enabled = false")
    with scripted_server(s3_error(403, "AccessDenied")) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.endpoint)
        with pytest.raises(StoreError):
            connect("bucket", "").put("a", b"")
    assert len(server.requests) == 1
