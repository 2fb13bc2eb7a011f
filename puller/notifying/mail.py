"""Mail through a server (SMTP), or through the host's own sendmail program."""

from __future__ import annotations

import smtplib
import ssl
import subprocess
from collections.abc import Sequence
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from urllib.parse import unquote, urlsplit

from puller.errors import PullerError
from puller.notifying.ending import Ending
from puller.notifying.patience import within_time

SENDMAIL = "/usr/sbin/sendmail"
_SECONDS = 15.0
_PORTS = {"smtp": 25, "smtps": 465}


def message(ending: Ending, sender: str, receivers: Sequence[str]) -> EmailMessage:
    """Return the mail about the end of a run."""
    mail = EmailMessage()
    mail["From"] = sender
    mail["To"] = ", ".join(receivers)
    mail["Subject"] = " ".join(ending.subject.split())
    mail["Date"] = formatdate(localtime=True)
    mail["Message-ID"] = make_msgid(domain="puller.invalid")
    mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: no holiday answers to this
    mail.set_content(ending.text + "\n")
    return mail


def send(mail: EmailMessage, server: str | None, password: str | None) -> None:
    """Send it through the server at this URL, ``smtp://[USER@]HOST[:PORT]`` or ``smtps://``, or else
    sendmail.

    ``smtp`` uses STARTTLS if the server offers it, and a password is never sent in clear text. Raises
    PullerError.
    """
    try:
        if server is None:
            _by_program(mail)
        else:
            within_time(lambda: _by_server(mail, server, password))
    except (OSError, smtplib.SMTPException, subprocess.SubprocessError, ValueError) as error:
        where = "sendmail" if server is None else urlsplit(server).hostname
        raise PullerError(f"cannot send mail by {where}: {_reason(error)}") from error


def _by_program(mail: EmailMessage) -> None:
    done = subprocess.run(
        [SENDMAIL, "-oi", "-t"], input=mail.as_bytes(), capture_output=True, timeout=_SECONDS, check=False
    )
    if done.returncode:
        raise ValueError(done.stderr.decode(errors="replace").strip() or f"it exits with {done.returncode}")


def _by_server(mail: EmailMessage, server: str, password: str | None) -> None:
    parts, tls = urlsplit(server), ssl.create_default_context()
    host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
    connection: smtplib.SMTP
    if parts.scheme == "smtps":
        connection = smtplib.SMTP_SSL(host, port, timeout=_SECONDS, context=tls)
    else:
        connection = smtplib.SMTP(host, port, timeout=_SECONDS)
    with connection:
        connection.ehlo()
        is_private = parts.scheme == "smtps"
        if not is_private and connection.has_extn("starttls"):
            connection.starttls(context=tls)
            is_private = True
        if password is not None:
            if not is_private:
                raise ValueError("it offers no TLS, so the password was not sent")
            connection.login(unquote(parts.username or ""), password)
        connection.send_message(mail)


def _reason(error: Exception) -> str:
    if isinstance(error, smtplib.SMTPResponseException):
        text = error.smtp_error
        return f"{error.smtp_code} {text.decode(errors='replace') if isinstance(text, bytes) else text}"
    return str(error) or type(error).__name__
