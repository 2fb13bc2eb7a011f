"""The thaw watchdog: a process that thaws a guest if the process that froze it cannot.

A guest whose file systems stay frozen is unusable, and a killed process thaws nothing. So this second
process is started before the freeze. A message on its standard input says that the guest is thawed. If its
input is closed instead, or the time is up, it thaws the guest itself, and repeats that until the agent
answers, because an agent that hung may still freeze later.

``python -m puller.hypervisor.guest.thawing URI UUID SECONDS``. The command to run in the guest once it is
thawed is in the environment, because all users of the host can read a command line.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Self

from puller.cancelling import CancelScope
from puller.errors import HypervisorError, NoSuchDomain
from puller.hypervisor.connection import Host
from puller.hypervisor.guest import guestagent, guestexec
from puller.hypervisor.guest.quiescing import GuestCommand

_AFTER = "PULLER_THAWING_AFTER"
"""The environment variable with the command: a JSON list of its time limit and its words."""

_THAWED = b"thawed"
PAUSE = 1.0
LIMIT = 3600.0
"""Seconds after which the watchdog gives up an agent that never answers."""


class ThawingProcess:
    """Context, entered before a freeze. Call ``done`` as soon as the guest is known to be thawed.

    ``watchdog`` is the module of the process, such as this one, and its arguments; ``seconds`` follow.

    Leaving the context without ``done`` leaves the process running; it ends by itself.
    """

    def __init__(self, watchdog: Sequence[str], seconds: float, after: GuestCommand | None = None) -> None:
        # -P: no file in the current directory may be imported as a module.
        command = [sys.executable, "-P", "-m", *watchdog, str(seconds)]
        told = [] if after is None else [after.timeout, *after.words]
        # Its own session: neither Ctrl-C nor the end of a terminal may reach it.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env={**os.environ, _AFTER: json.dumps(told)},
            start_new_session=True,
        )

    def done(self) -> None:
        """Report that the guest is thawed, which ends the process."""
        assert self._process.stdin is not None
        with suppress(OSError):  # it had finished first
            self._process.stdin.write(_THAWED)
            self._process.stdin.close()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()


def is_thawed(seconds: float) -> bool:
    """Wait for ``seconds`` for the message of the process that froze, and return whether it came."""
    ready, _, _ = select.select([sys.stdin], [], [], seconds)
    return bool(ready) and sys.stdin.buffer.read() == _THAWED


def command_after() -> GuestCommand | None:
    """Return the command from the environment of the process."""
    told = json.loads(os.environ.get(_AFTER, "[]"))
    return GuestCommand(tuple(told[1:]), float(told[0])) if told else None


def thaw_until_answered(uri: str, uuid: str, after: GuestCommand | None = None) -> bool:
    """Return whether, within an hour, the agent answered a thaw or the domain went away.

    Once it is thawed, the command ``after`` runs in the guest.
    """
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        try:
            return _thaw(uri, uuid, after)
        except HypervisorError as error:
            if guestagent.is_refusal(error):
                return True
        CancelScope().pause(PAUSE)
    return False


def _thaw(uri: str, uuid: str, after: GuestCommand | None) -> bool:
    with Host.reach(uri) as host:
        try:
            domain = host.domain(uuid)
        except NoSuchDomain:
            return True
        if domain.is_active():
            guestagent.thaw(domain)
            guestagent.set_time_limit(domain, guestagent.FOREVER)
            if after is not None:
                guestexec.run(guestagent.DomainAgent(domain, uri), after, "after")
    return True


def main() -> int:
    """Wait for the message; thaw if it does not come."""
    uri, uuid, seconds = sys.argv[1:]
    if is_thawed(float(seconds)):
        return 0
    return 0 if thaw_until_answered(uri, uuid, command_after()) else 1


if __name__ == "__main__":
    sys.exit(main())
