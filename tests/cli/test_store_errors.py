"""What a user sees when the bucket, the credentials or the server are not as they should be."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

import puller
from tests.cli.conftest import CommandLine, process
from tests.lab.seaweed import Seaweed

BUCKET = "command-line"


@pytest.fixture(scope="module")
def bucket(seaweed: Seaweed) -> str:
    seaweed.make_bucket(BUCKET)
    return f"s3://{BUCKET}"


@pytest.fixture(autouse=True)
def on_the_server(seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> None:
    seaweed.use(monkeypatch)


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that nobody listens on, kept from others by being bound."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def test_a_repository_in_a_bucket(cli: CommandLine, bucket: str) -> None:
    url = f"{bucket}/made"
    made = cli("init", "-r", url, "--no-encryption", "--json").document
    assert made["repository"] == url
    assert cli("points", "-r", url, "--json").document == {"points": []}
    assert cli("init", "-r", url, "--no-encryption", "--json").error["name"] == "RepositoryExists"


def test_stdout_is_pure_in_a_process(bucket: str) -> None:
    made = process("init", "-r", f"{bucket}/process", "--no-encryption", "--json")
    assert made.document["encrypted"] is False
    assert made.err == ""


@pytest.mark.parametrize("command", [["init", "--no-encryption"], ["points"]])
def test_no_such_bucket(cli: CommandLine, command: list[str]) -> None:
    error = cli(*command, "-r", "s3://there-is-none/x", "--json").error
    assert (error["code"], error["name"]) == (14, "NoBucket")
    assert "there-is-none" in error["message"]


def test_no_repository_under_the_prefix(cli: CommandLine, bucket: str) -> None:
    assert cli("points", "-r", f"{bucket}/nothing", "--json").error["code"] == 10


@pytest.mark.parametrize("variable", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_credentials(
    cli: CommandLine, bucket: str, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "wrong")
    error = cli("points", "-r", bucket, "--json").error
    assert (error["code"], error["name"], error["retryable"]) == (14, "StoreDenied", False)


def test_no_credentials(cli: CommandLine, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    error = cli("points", "-r", bucket, "--json").error
    assert (error["code"], error["retryable"]) == (14, False)


def test_the_server_is_down(
    cli: CommandLine, bucket: str, closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{closed_port}")
    error = cli("points", "-r", bucket, "--json").error
    assert (error["code"], error["name"], error["retryable"]) == (14, "StoreUnavailable", True)


def test_the_password_is_needed_here_too(cli: CommandLine, bucket: str) -> None:
    puller.create_repository(f"{bucket}/secret", password="night")
    assert cli("points", "-r", f"{bucket}/secret", "--json").error["code"] == 12
