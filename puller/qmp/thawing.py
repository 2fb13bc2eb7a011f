"""The thaw watchdog of a QEMU without libvirt: see ``puller.hypervisor.guest.thawing``.

``python -m puller.qmp.thawing SOCKET SECONDS``
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from puller.cancelling import CancelScope
from puller.errors import HypervisorError
from puller.hypervisor.guest import guestexec
from puller.hypervisor.guest.quiescing import GuestCommand
from puller.hypervisor.guest.thawing import LIMIT, PAUSE, command_after, is_thawed
from puller.qmp.agent import Asked, Conversation, is_refusal

_ANSWER = 10.0
"""Seconds for an answer, before the thaw is repeated over a new connection."""


def thaw_until_answered(path: Path, after: GuestCommand | None = None) -> bool:
    """Return whether, within an hour, the agent answered a thaw or its socket went away.

    Once it is thawed, the command ``after`` runs in the guest.
    """
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        if not path.exists():
            return True
        try:
            with Conversation(path, "cannot thaw the file systems") as agent:
                agent.ask("guest-fsfreeze-thaw", _ANSWER)
            if after is not None:
                guestexec.run(Asked(path), after, "after")
            return True
        except HypervisorError as error:
            if is_refusal(error):
                return True
        CancelScope().pause(PAUSE)
    return False


def main() -> int:
    """Wait for the message; thaw if it does not come."""
    path, seconds = sys.argv[1:]
    if is_thawed(float(seconds)):
        return 0
    return 0 if thaw_until_answered(Path(path), command_after()) else 1


if __name__ == "__main__":
    sys.exit(main())
