"""Watch free space for the scratch while a pull job is open, to end the job before guest writes fail.

The check before the job cannot know how much the guest will write, and other programs may fill the same file
system. Frequent queries of libvirt's job statistics are not safe (before 10.8 they could crash the daemon),
and they do not include other programs. ``statvfs`` is cheap and counts everything.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

from puller.errors import HostUnreachable, ScratchFull, UsageError
from puller.host.access import LOCAL, HostAccess
from puller.hypervisor.space.scratch import free_bytes
from puller.units import MIB, format_bytes

INTERVAL = 0.1
"""Seconds between two checks, on this host."""

FLOOR = 16 * MIB
"""Bytes that stay free at any rate."""

HORIZON = 2.0
"""Seconds of writing for which there must be space. Ending a job takes far less."""

MEMORY = 1.0
"""Seconds over which the rate is measured: guests write in bursts."""

Alarm = Callable[[ScratchFull], None]


class Forecast:
    """Computes from samples of the free space how much has to stay free."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def reserve(self, now: float, free: int) -> int:
        """Return the bytes that have to be free, given a sample of ``free`` bytes at ``now`` seconds."""
        self._samples.append((now, free))
        while len(self._samples) > 2 and self._samples[1][0] <= now - MEMORY:
            self._samples.popleft()
        began, before = self._samples[0]
        if now <= began:
            return FLOOR
        return max(FLOOR, int((before - free) / (now - began) * HORIZON))


class ScratchWatch:
    """A context in which another thread calls ``alarm`` once if ``folder`` is filling up.

    ``alarm`` must make the run close all NBD connections and end the job.
    """

    def __init__(self, folder: Path, alarm: Alarm, host: HostAccess = LOCAL) -> None:
        self._host = host
        self._folder = folder
        self._alarm = alarm
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="scratch", daemon=True)

    def __enter__(self) -> Self:
        try:
            self._thread.start()
        except BaseException:  # a signal: this context will not be left
            self._over.set()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        forecast = Forecast()
        while not self._over.is_set():  # sample at once: a rate needs two samples
            with suppress(UsageError, HostUnreachable):  # a failed check says nothing about the space
                free = free_bytes(self._folder, "scratch", self._host)
                if free < forecast.reserve(time.monotonic(), free):
                    self._alarm(_full(self._folder, free))
                    return
            self._over.wait(max(INTERVAL, self._host.watch_interval))


def _full(folder: Path, free: int) -> ScratchFull:
    return ScratchFull(
        f"scratch directory {folder} has only {format_bytes(free)} free and is filling up: "
        "the backup was ended before guest writes could fail",
        advice="Choose a directory with more space with --scratch-dir, or back up while it writes less.",
    )
