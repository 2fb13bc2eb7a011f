"""Servers on loopback that keep what they receive: one for mail, one for HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Sink
from aiosmtpd.smtp import AuthResult, LoginPassword

from tests.lab.qemu import free_port
from tests.lab.web import Web, web_server


class Mailbox(Sink):
    """Keeps the mails, and the passwords that were given."""

    def __init__(self) -> None:
        super().__init__()
        self.mails: list[tuple[str, list[str], str]] = []
        self.logins: list[tuple[bytes, bytes]] = []
        self.url = ""

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        self.mails.append((envelope.mail_from, envelope.rcpt_tos, envelope.content.decode()))
        return "250 OK"

    def login(self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        assert isinstance(data, LoginPassword)
        self.logins.append((data.login, data.password))
        return AuthResult(success=data.password == b"right")


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    box = Mailbox()
    server = Controller(
        box, hostname="127.0.0.1", port=free_port(), authenticator=box.login, auth_require_tls=False
    )
    server.start()
    box.url = f"smtp://127.0.0.1:{server.port}"
    yield box
    server.stop()


@pytest.fixture
def web() -> Iterator[Web]:
    with web_server() as server:
        yield server
