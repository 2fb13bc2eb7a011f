"""The thaw watchdog of a QEMU without libvirt: see ``puller.hypervisor.guest.thawing``.

``python -m puller.qmp.thawing SOCKET SECONDS``
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from puller.cancelling import CancelScope
from puller.errors import HypervisorError
from puller.hypervisor.guest.thawing import LIMIT, PAUSE, is_thawed
from puller.qmp.agent import FOREVER, Conversation, is_refusal


def thaw_until_answered(path: Path) -> bool:
    """Return whether, within an hour, the agent answered a thaw or its socket went away."""
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        if not path.exists():
            return True
        try:
            with Conversation(path, "cannot thaw the file systems") as agent:
                agent.ask("guest-fsfreeze-thaw", FOREVER)
            return True
        except HypervisorError as error:
            if is_refusal(error):
                return True
        CancelScope().pause(PAUSE)
    return False


def main() -> int:
    """Wait for the message; thaw if it does not come."""
    path, seconds = sys.argv[1:]
    return 0 if is_thawed(float(seconds)) or thaw_until_answered(Path(path)) else 1


if __name__ == "__main__":
    sys.exit(main())
