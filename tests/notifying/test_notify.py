"""Notifications to real servers on loopback: who gets them, and when."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from email import message_from_string
from pathlib import Path

import msgspec
import pytest

from puller.configuration.schema import Notify
from puller.errors import PullerError
from puller.notifying import mail, notify
from puller.notifying.bodies import body
from puller.notifying.ending import Ending
from tests.lab.web import Web
from tests.notifying.conftest import Mailbox

WELL = Ending("nightly", "kvm1", 0, "job nightly: 3 of 3 domains backed up in 2 min 1 s", seconds=121.04)
FAILED = replace(
    WELL,
    exit_code=3,
    summary="job nightly: 2 of 3 domains backed up in 2 min 1 s",
    failure="cannot back up db1: no space",
    advice="Make room.",
)
WRONG = replace(WELL, alarms=(("web1", "20 GiB changed"),))


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PULLER_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def complaints() -> list[str]:
    return []


def tell(wanted: Notify, ending: Ending, complaints: list[str]) -> None:
    notify.ended(wanted, ending, lambda error: complaints.append(error.message))


def test_only_a_change_of_the_state_is_told(web: Web, complaints: list[str]) -> None:
    wanted = Notify(webhook=f"{web.url}/hook")
    for ending in (WELL, WELL, FAILED, FAILED, WRONG, WELL, WELL):
        tell(wanted, ending, complaints)
    assert [document["state"] for document in web.documents()] == ["failed", "looks wrong", "ok"]
    assert complaints == []


@pytest.mark.parametrize(
    ("when", "states"), [("failure", ["failed"] * 2), ("always", ["ok", "failed", "failed"])]
)
def test_each_failure_or_each_run(web: Web, complaints: list[str], when: str, states: list[str]) -> None:
    wanted = msgspec.convert({"webhook": f"{web.url}/hook", "when": when}, Notify)
    for ending in (WELL, FAILED, FAILED):
        tell(wanted, ending, complaints)
    assert [document["state"] for document in web.documents()] == states


def test_what_could_not_be_told_is_told_by_the_next_run(web: Web, complaints: list[str]) -> None:
    wanted = Notify(webhook=f"{web.url}/secret-hook")
    web.answer = 500
    tell(wanted, FAILED, complaints)
    assert complaints == ["cannot call the webhook at 127.0.0.1: it answers 500"]
    web.answer = 200
    tell(wanted, FAILED, complaints)
    tell(wanted, FAILED, complaints)
    assert len(web.posted) == 2
    assert "secret" not in "".join(complaints), "the URL of a webhook is a secret"


def test_a_server_that_is_away(complaints: list[str]) -> None:
    tell(Notify(webhook="http://127.0.0.1:1/hook", ping="http://127.0.0.1:1/ping"), FAILED, complaints)
    assert complaints == [
        "cannot ping 127.0.0.1: no connection",
        "cannot call the webhook at 127.0.0.1: no connection",
    ]


def test_pings(web: Web, complaints: list[str]) -> None:
    wanted = Notify(ping=f"{web.url}/ping/uuid/")
    notify.began(wanted, lambda error: complaints.append(error.message))
    for ending in (WELL, FAILED, WRONG):
        tell(wanted, ending, complaints)
    assert web.posted == [
        ("/ping/uuid/start", ""),
        ("/ping/uuid/0", WELL.text),
        ("/ping/uuid/3", FAILED.text),
        ("/ping/uuid/1", WRONG.text),
    ]
    assert complaints == []


def test_mail_by_a_server(mailbox: Mailbox, complaints: list[str]) -> None:
    wanted = Notify(mail=["a@example.org", "b@example.org"], sender="puller@example.org", smtp=mailbox.url)
    tell(wanted, FAILED, complaints)
    assert complaints == []
    ((sender, receivers, content),) = mailbox.mails
    assert (sender, receivers) == ("puller@example.org", ["a@example.org", "b@example.org"])
    got = message_from_string(content)
    assert got["Subject"] == "[puller] failed: nightly on kvm1"
    assert got["Auto-Submitted"] == "auto-generated"
    assert str(got.get_payload()).splitlines() == [
        "job nightly: 2 of 3 domains backed up in 2 min 1 s",
        "exit code 3: cannot back up db1: no space",
        "Make room.",
    ]


def test_a_password_is_never_sent_in_clear_text(
    mailbox: Mailbox, complaints: list[str], tmp_path: Path
) -> None:
    (tmp_path / "password").write_text("right\n")
    url = mailbox.url.replace("//", "//me@")
    wanted = Notify(mail=["a@example.org"], smtp=url, smtp_password_file=str(tmp_path / "password"))
    tell(wanted, FAILED, complaints)
    assert complaints == ["cannot send mail by 127.0.0.1: it offers no TLS, so the password was not sent"]
    assert (mailbox.logins, mailbox.mails) == ([], [])


def test_mail_by_the_program_of_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, complaints: list[str]
) -> None:
    program = tmp_path / "sendmail"
    program.write_text(f'#!/bin/sh\nprintf "%s " "$@" >{tmp_path}/words; cat >{tmp_path}/mail\n')
    program.chmod(stat.S_IRWXU)
    monkeypatch.setattr(mail, "SENDMAIL", str(program))
    tell(Notify(mail=["a@example.org"]), FAILED, complaints)
    assert complaints == []
    assert (tmp_path / "words").read_text() == "-oi -t "
    assert "To: a@example.org" in (tmp_path / "mail").read_text()
    program.write_text("#!/bin/sh\necho the queue is full >&2; exit 75\n")
    tell(Notify(mail=["a@example.org"], when="always"), FAILED, complaints)
    assert complaints == ["cannot send mail by sendmail: the queue is full"]


def test_a_host_without_sendmail(monkeypatch: pytest.MonkeyPatch, complaints: list[str]) -> None:
    monkeypatch.setattr(mail, "SENDMAIL", "/nonexistent/sendmail")
    tell(Notify(mail=["a@example.org"]), FAILED, complaints)
    assert complaints[0].startswith("cannot send mail by sendmail: [Errno 2]")


def test_a_subject_is_one_line() -> None:
    ending = replace(FAILED, job="a\nBcc: all@example.org")
    assert mail.message(ending, "p@example.org", ["a@example.org"])["Subject"] == (
        "[puller] failed: a Bcc: all@example.org on kvm1"
    )


def test_the_forms_of_a_webhook() -> None:
    told = f"{FAILED.subject}\n{FAILED.text}"
    assert body(FAILED, "slack") == {"text": told}
    assert body(FAILED, "discord")["content"] == told
    assert len(body(replace(FAILED, failure="x" * 9000), "discord")["content"]) < 2000
    card = body(WRONG, "teams")["attachments"][0]["content"]
    assert [block["text"] for block in card["body"]] == [
        "[puller] looks wrong: nightly on kvm1",
        WRONG.summary,
        "web1 looks wrong: 20 GiB changed",
    ]
    assert json.loads(json.dumps(body(WRONG, "json")))["alarms"] == [
        {"domain": "web1", "text": "20 GiB changed"}
    ]


def test_a_password_that_cannot_be_read(complaints: list[str], mailbox: Mailbox) -> None:
    wanted = Notify(mail=["a@example.org"], smtp=mailbox.url, smtp_password_file="/nonexistent/password")
    tell(wanted, FAILED, complaints)
    assert complaints == ["cannot read /nonexistent/password: No such file or directory"]


def test_an_error_is_one_of_pullers() -> None:
    with pytest.raises(PullerError, match="cannot send mail by"):
        mail.send(mail.message(FAILED, "p@example.org", ["a@example.org"]), "smtp://127.0.0.1:1", None)


def test_names_that_are_not_utf_8_are_told_in_all_ways(
    web: Web, mailbox: Mailbox, complaints: list[str]
) -> None:
    """Such as the path of a file, which Linux does not restrict to UTF-8."""
    wanted = Notify(
        webhook=f"{web.url}/hook", ping=f"{web.url}/ping", mail=["ops@example.org"], smtp=mailbox.url
    )
    tell(wanted, replace(FAILED, failure="cannot read /srv/\udcff"), complaints)
    assert complaints == []
    assert len(web.posted) == 2
    assert "cannot read /srv/\\udcff" in message_from_string(mailbox.mails[0][2]).get_payload()


def test_a_user_whom_this_host_does_not_know(
    mailbox: Mailbox, complaints: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container that runs under a number of its own."""

    def unknown() -> str:
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr("getpass.getuser", unknown)
    tell(Notify(mail=["ops@example.org"], smtp=mailbox.url), FAILED, complaints)
    assert complaints == []
    assert mailbox.mails[0][0] == "puller@kvm1"
