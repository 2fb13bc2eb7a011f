"""The priority of a process that comes after all others."""

from __future__ import annotations

import os
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
