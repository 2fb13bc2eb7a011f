"""Watches the room for the scratch while a pull job is open: the job ends before writes of the guest fail.

The check before the job cannot know how much the guest will write, and others may fill the same file system.
To ask libvirt for the job's statistics often is not safe (before 10.8 it could crash the daemon), and they
say nothing of others. ``statvfs`` is cheap and counts everything.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

from puller.errors import ScratchFull, UsageError
from puller.hypervisor.space.scratch import free_bytes
from puller.units import MIB, format_bytes

LOOK = 0.1
"""Seconds between two looks."""

FLOOR = 16 * MIB
"""Bytes that stay free whatever the rate."""

HORIZON = 2.0
"""Seconds of writing for which there must be room. To end a job takes far less."""

MEMORY = 1.0
"""Seconds over which the rate is taken: guests write in bursts."""

Alarm = Callable[[ScratchFull], None]


class Forecast:
    """Tells from looks at the free space whether it is time to end."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, int]] = deque()

    def reserve(self, now: float, free: int) -> int:
        """Bytes that have to be free, after a look at ``now`` seconds that found ``free`` bytes."""
        self._looks.append((now, free))
        while len(self._looks) > 2 and self._looks[1][0] <= now - MEMORY:
            self._looks.popleft()
        began, before = self._looks[0]
        if now <= began:
            return FLOOR
        return max(FLOOR, int((before - free) / (now - began) * HORIZON))


class ScratchWatch:
    """A context; within it ``alarm`` is called once if ``folder`` is filling up, from another thread.

    Who is alarmed closes all NBD connections and ends the job.
    """

    def __init__(self, folder: Path, alarm: Alarm) -> None:
        self._folder = folder
        self._alarm = alarm
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="scratch", daemon=True)

    def __enter__(self) -> Self:
        try:
            self._thread.start()
        except BaseException:  # a signal: nobody will leave this context
            self._over.set()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        forecast = Forecast()
        while not self._over.is_set():  # the first look at once: a rate takes two
            with suppress(UsageError):  # a look that fails says nothing of the room
                free = free_bytes(self._folder, "scratch")
                if free < forecast.reserve(time.monotonic(), free):
                    self._alarm(_full(self._folder, free))
                    return
            self._over.wait(LOOK)


def _full(folder: Path, free: int) -> ScratchFull:
    return ScratchFull(
        f"scratch directory {folder} has only {format_bytes(free)} free and is filling up: "
        "the backup was ended before writes of the guest could fail",
        advice="Give more room with --scratch-dir, or back up when the guest writes less.",
    )
