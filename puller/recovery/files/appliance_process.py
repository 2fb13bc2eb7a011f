"""The process that holds libguestfs's handle: ``python -m puller.recovery.files.appliance_process FD``.

libguestfs is a C library whose calls cannot be ended from outside, and which ends the calling process in some
faults. In a process of its own it can be stopped at any time, and its variables are not those of puller.

Over the socket FD come the calls (method, arguments, named arguments), and go back ``(True, result)`` or
``(False, message)``. At the end of the socket the appliance is shut down.
"""

from __future__ import annotations

import signal
import sys
from multiprocessing.connection import Connection
from typing import Any

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
    handle = guestfs.GuestFS(python_return_dict=True)
    try:
        while True:
            connection.send(_answer(handle, *connection.recv()))
    except (EOFError, OSError):
        pass
    finally:
        handle.close()


def _answer(handle: Any, method: str, arguments: Any, named: Any) -> tuple[bool, Any]:
    try:
        return True, getattr(handle, method)(*arguments, **named)
    except _REFUSALS as error:
        return False, str(error)


if __name__ == "__main__":
    main()
