"""The process that holds libguestfs's handle: ``python -m puller.recovery.files.appliance_process FD``.

libguestfs is a C library whose calls cannot be ended from outside, and which ends the calling process in some
faults. In a process of its own it can be stopped at any time, and its variables are not those of puller.

Over the socket FD come the calls (method, arguments, named arguments), and go back ``(True, result)`` or
``(False, message)``. At the end of the socket the appliance is shut down.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection
from typing import Any

ENDING = 10.0
"""Seconds that libguestfs has to clean up, once its machine has ended."""

_REFUSALS = (RuntimeError, ValueError, TypeError, AttributeError)
"""What the binding raises: RuntimeError for libguestfs's errors, UnicodeError (a ValueError) for names."""


def main() -> None:
    """Serve the calls until the socket ends."""
    # A handler, since an ignored signal would be ignored by QEMU too. The whole group gets the signal: QEMU
    # ends, so the call under way fails, and this process can clean up.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    import guestfs

    connection: Connection[Any, Any] = Connection(int(sys.argv[1]))
    threading.Thread(target=_end_with_puller, args=[connection.fileno()], daemon=True).start()
    handle = guestfs.GuestFS(python_return_dict=True)
    try:
        while True:
            connection.send(_answer(handle, *connection.recv()))
    except (EOFError, OSError):
        pass
    finally:
        handle.close()


def _end_with_puller(descriptor: int) -> None:
    """End the machine once puller has closed its side or was killed: a call under way would go on."""
    poll = select.poll()
    poll.register(descriptor, select.POLLRDHUP)
    poll.poll()
    os.killpg(0, signal.SIGTERM)
    time.sleep(ENDING)
    os.killpg(0, signal.SIGKILL)


def _answer(handle: Any, method: str, arguments: Any, named: Any) -> tuple[bool, Any]:
    try:
        return True, getattr(handle, method)(*arguments, **named)
    except _REFUSALS as error:
        return False, str(error)


if __name__ == "__main__":
    main()
