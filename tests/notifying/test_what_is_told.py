"""What must reach people, whatever else fails; and that no server holds the run up."""

from __future__ import annotations

import getpass
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from puller.configuration.schema import Notify
from puller.notifying import notify, patience
from puller.notifying import web as services
from puller.notifying.bodies import body
from puller.notifying.ending import Ending
from tests.lab.web import Web
from tests.notifying.conftest import Mailbox

WELL = Ending("nightly", "kvm1", 0, "job nightly: 3 of 3 domains backed up")
FAILED = replace(WELL, exit_code=3, failure="cannot back up db1: no space", failed=("db1",))
WRONG = replace(WELL, alarms=(("web1", "20 GiB changed"),))


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULLER_STATE_DIR", str(tmp_path / "state"))


@pytest.fixture
def complaints() -> list[str]:
    return []


def tell(wanted: Notify, complaints: list[str], *endings: Ending) -> None:
    for ending in endings:
        notify.ended(wanted, ending, lambda error: complaints.append(error.message))


def test_a_point_that_looks_wrong_is_told_although_another_did_the_night_before(
    web: Web, complaints: list[str]
) -> None:
    other = replace(WELL, alarms=(("db1", "90 GiB changed"),))
    tell(Notify(webhook=f"{web.url}/hook"), complaints, WRONG, other)
    assert [found["alarms"][0]["domain"] for found in web.documents()] == ["web1", "db1"]


def test_a_point_that_looks_wrong_is_told_although_the_job_fails_every_night(
    web: Web, complaints: list[str]
) -> None:
    tell(Notify(webhook=f"{web.url}/hook"), complaints, FAILED, FAILED, replace(FAILED, alarms=WRONG.alarms))
    assert [len(found["alarms"]) for found in web.documents()] == [0, 1]


def test_another_failure_is_news(web: Web, complaints: list[str]) -> None:
    more = replace(FAILED, failed=("db1", "web1"))
    tell(Notify(webhook=f"{web.url}/hook"), complaints, FAILED, more, more, FAILED, FAILED)
    assert [found["failed"] for found in web.documents()] == [["db1"], ["db1", "web1"], ["db1"]]


@pytest.mark.parametrize("when", ["change", "failure", "always"])
def test_an_alarm_that_could_not_be_delivered_is_told_by_the_next_run(
    web: Web, complaints: list[str], when: str
) -> None:
    wanted = msgspec.convert({"webhook": f"{web.url}/hook", "when": when}, Notify)
    web.answer = 500
    tell(wanted, complaints, WRONG)
    web.answer = 200
    web.posted.clear()
    tell(wanted, complaints, WELL)
    (told,) = web.documents()
    assert (told["state"], told["alarms"]) == ("looks wrong", [{"domain": "web1", "text": "20 GiB changed"}])
    web.posted.clear()
    tell(wanted, complaints, WELL)
    assert [found["alarms"] for found in web.documents()] == ([[]] if when != "failure" else [])


def test_a_state_that_cannot_be_read_is_as_none(web: Web, complaints: list[str], tmp_path: Path) -> None:
    """Such as that of an older version, which wrote a word."""
    (tmp_path / "state/notified").mkdir(parents=True)
    (tmp_path / "state/notified/nightly").write_text("failed\n")
    tell(Notify(webhook=f"{web.url}/hook"), complaints, WELL, FAILED)
    assert [found["state"] for found in web.documents()] == ["failed"]


def test_a_ping_keeps_the_query_of_its_url(web: Web, complaints: list[str]) -> None:
    tell(Notify(ping=f"{web.url}/ping/key/web?create=1"), complaints, WELL)
    assert [path for path, _ in web.posted] == ["/ping/key/web/0?create=1"]


def test_an_error_with_bytes_that_are_not_utf_8_is_told(
    web: Web, mailbox: Mailbox, complaints: list[str]
) -> None:
    """A path that Python read from the file system."""
    odd = replace(FAILED, failure="cannot read /srv/\udcff.img", host="kvm\udcff")
    wanted = Notify(
        webhook=f"{web.url}/hook", ping=f"{web.url}/ping", mail=["a@example.org"], sender="p@example.org"
    )
    tell(msgspec.structs.replace(wanted, smtp=mailbox.url), complaints, odd)
    assert complaints == []
    assert len(web.posted) == 2
    assert "/srv/\\udcff.img" in mailbox.mails[0][2]


def test_a_user_without_a_name_can_send_mail(
    mailbox: Mailbox, complaints: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr(getpass, "getuser", nameless)
    tell(Notify(mail=["a@example.org"], smtp=mailbox.url), complaints, FAILED)
    assert (complaints, mailbox.mails[0][0]) == ([], "puller@kvm1")


def test_a_chat_gets_text_and_neither_links_nor_mentions() -> None:
    odd = replace(WELL, alarms=(("<!channel>", "a & b"),))
    text = body(odd, "slack")["text"]
    assert "&lt;!channel&gt; looks wrong: a &amp; b" in text
    assert "<" not in text


def test_a_card_is_not_too_long_for_its_service() -> None:
    many = replace(WELL, alarms=tuple((f"web{number}", "x" * 200) for number in range(500)))
    assert len(msgspec.json.encode(body(many, "teams"))) < 28_000


@contextmanager
def trickling(begin: bytes) -> Iterator[int]:
    """The port of a server that begins an answer, and then sends a byte of it again and again."""
    stopped, server = threading.Event(), socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        with connection:
            connection.sendall(begin)
            while not stopped.wait(0.05):
                try:
                    connection.sendall(b"x")
                except OSError:
                    return

    def accept() -> None:
        while not stopped.is_set():
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    yield server.getsockname()[1]
    stopped.set()
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join()


def test_a_server_that_goes_on_sending_holds_nobody_up(
    complaints: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "PATIENCE", 0.5)
    with trickling(b"HTTP/1.1 200 OK\r\nX: ") as http, trickling(b"220 ") as smtp:
        hook, server = f"http://127.0.0.1:{http}/hook", f"smtp://127.0.0.1:{smtp}"
        tell(Notify(webhook=hook, mail=["a@example.org"], smtp=server), complaints, FAILED)
    assert complaints == [
        "cannot call the webhook at 127.0.0.1: no answer",
        "cannot send mail by 127.0.0.1: no answer",
    ]


def test_an_answer_without_end_is_not_read() -> None:
    server = socket.create_server(("127.0.0.1", 0))
    sent: list[int] = []

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            try:
                while True:
                    sent.append(connection.send(bytes(65536)))
            except OSError:
                return

    thread = threading.Thread(target=serve)
    thread.start()
    services.ping(f"http://127.0.0.1:{server.getsockname()[1]}/ping", "0")
    thread.join(timeout=60)
    server.close()
    assert not thread.is_alive()
    assert sum(sent) < 64 << 20
