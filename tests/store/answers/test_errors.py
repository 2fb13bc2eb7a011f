"""Errors of credentials and of the client, and lost answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from puller.errors import ObjectExists, StoreDenied, StoreError, StoreUnavailable, UsageError
from puller.repository import repository as repositories
from puller.repository.format.packname import PackKind
from puller.repository.keys import key_slots as slots
from puller.repository.keys.key_slots import KeyFile
from puller.repository.records.condemned import ALL, CondemnedSlots
from puller.store.s3.client.client import connect
from puller.store.s3.s3 import S3Store
from puller.store.wrapping.retrying import RetryingStore
from tests.lab.seaweed import Seaweed
from tests.store.answers.answering import Connect, raised
from tests.store.scripted import HEADERS, OPERATIONS, Answer, s3_error, scripted_server


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
