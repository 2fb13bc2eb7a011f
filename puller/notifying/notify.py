"""Whom to notify, of what and when: the table ``[jobs.NAME.notify]`` (docs/operations.md,
"Notifications")."""

from __future__ import annotations

import getpass
from collections.abc import Callable, Iterator
from pathlib import Path

from puller.configuration.schema import Notify
from puller.errors import PullerError
from puller.notifying import mail, told, web
from puller.notifying.bodies import body
from puller.notifying.ending import Ending

Complain = Callable[[PullerError], None]


def began(wanted: Notify, complain: Complain) -> None:
    """Ping the service at the start of a run."""
    if (url := wanted.ping) is not None:
        _try(lambda: web.ping(url, "start"), complain)


def ended(wanted: Notify, ending: Ending, complain: Complain) -> None:
    """Send all notifications. ``complain`` gets the errors of those that fail, which stop nothing."""
    if (ping := wanted.ping) is not None:
        signal = str(ending.exit_code or int(not ending.is_well))
        _try(lambda: web.ping(ping, signal, ending.text), complain)
    ending = told.with_untold(ending)
    if _is_due(wanted, ending):
        done = [_try(tell, complain) for tell in _ways(wanted, ending)]
        (told.note if all(done) else told.note_untold)(ending)


def _ways(wanted: Notify, ending: Ending) -> Iterator[Callable[[], None]]:
    if (hook := wanted.webhook) is not None:
        yield lambda: web.post_json(hook, body(ending, wanted.webhook_style))
    if (receivers := wanted.mail) is not None:
        yield lambda: _mail(wanted, ending, receivers)


def _is_due(wanted: Notify, ending: Ending) -> bool:
    if wanted.when == "always":
        return True
    return not ending.is_well if wanted.when == "failure" else told.is_change(ending)


def _mail(wanted: Notify, ending: Ending, receivers: list[str]) -> None:
    sender = wanted.sender or f"{_user()}@{ending.host or 'localhost'}"
    mail.send(mail.message(ending, sender, receivers), wanted.smtp, _password(wanted.smtp_password_file))


def _user() -> str:
    """Return the user's name; ``puller`` if the host knows none, as in some containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "puller"


def _password(path: str | None) -> str | None:
    if path is None:
        return None
    try:
        return Path(path).read_text().rstrip("\n")
    except (OSError, ValueError) as error:
        raise PullerError(f"cannot read {path}: {getattr(error, 'strerror', error)}") from error


def _try(tell: Callable[[], None], complain: Complain) -> bool:
    try:
        tell()
    except PullerError as error:
        complain(error)
        return False
    return True
