"""The priority of processes and threads that come after all others."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path

NICE = 10


def lower(process: int) -> None:
    """Let all threads of a process come after others; threads that it starts later inherit that.

    Does nothing if the process has ended or belongs to another user.
    """
    with suppress(OSError):
        for task in Path(f"/proc/{process}/task").iterdir():
            os.setpriority(os.PRIO_PROCESS, int(task.name), NICE)


def lower_thread() -> None:
    """Let the calling thread come after others, as ``lower`` does; one that does already stays as it is."""
    thread = threading.get_native_id()
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, thread, max(NICE, os.getpriority(os.PRIO_PROCESS, thread)))
