"""Messages to the service manager: ready, status, watchdog, stopping.

A message is one datagram of ``NAME=value`` lines to the socket that ``NOTIFY_SOCKET`` names; one that begins
with ``@`` is abstract. See sd_notify(3) and sd_watchdog_enabled(3).
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Self

from puller.cli.output.streams.console import printable
from puller.events import DiskPlanned, DiskProgress, Event, Step
from puller.units import format_bytes

STALL = 1800.0
"""Seconds without a word from a disk that is being read, after which the watchdog is not told any more
that all is well. Rate limits and retries tell of themselves sooner."""

_STATUS_SECONDS = 2.0
"""Least seconds between two status messages: systemd wakes up for each."""

_PATIENCE = 1.0
"""Seconds to wait for a full socket: Linux queues only a few messages for a process that does not read."""


class Service:
    """A context that sends messages to the service manager, if there is one."""

    def __init__(self, address: str | None, watchdog: float | None = None) -> None:
        """``address`` is that of ``NOTIFY_SOCKET``; ``watchdog`` its timeout in seconds."""
        self._address = address
        self._watchdog = watchdog
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._heard = time.monotonic()
        self._steps: dict[str, str] = {}
        self._disks: dict[tuple[str, str], DiskProgress] = {}
        self._totals: dict[tuple[str, str], int] = {}
        self._told = 0.0

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Self:
        """Return the service manager that started this process, if any."""
        address = environment.get("NOTIFY_SOCKET") or None
        ours = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        microseconds = environment.get("WATCHDOG_USEC", "") if ours else ""
        return cls(address, int(microseconds) / 1e6 if microseconds.isdigit() else None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def ready(self) -> None:
        """Report that the command line and the configuration are valid and work begins."""
        self._send("READY=1")
        if self._address is not None and self._watchdog:
            threading.Thread(target=self._beat, name="watchdog", daemon=True).start()

    def stopping(self) -> None:
        """Report that the work is ending, finished or interrupted."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """Set the text that ``systemctl status`` shows."""
        self._send(f"STATUS={printable(text)}")

    def __call__(self, event: Event) -> None:
        """Observe."""
        if self._address is None:
            return
        with self._lock:
            self._heard = time.monotonic()
            self._take(event)
            due = isinstance(event, Step) or self._heard - self._told >= _STATUS_SECONDS
            if due:
                self._told = self._heard
        if due:
            self.status(self._text())

    def forget(self, subject: str) -> None:
        """Forget a subject that has ended, so that its silence does not count any more."""
        with self._lock:
            self._steps.pop(subject, None)

    def _take(self, event: Event) -> None:
        match event:
            case Step():
                self._steps[event.subject] = event.name
            case DiskPlanned():
                self._totals[event.subject, event.disk] = event.total
            case DiskProgress():
                self._disks[event.subject, event.disk] = event

    def _text(self) -> str:
        with self._lock:
            steps = ", ".join(
                f"{subject}: {name}" for subject, name in self._steps.items() if name != "retire"
            )
            # Work that was found later and was not in the plan counts as done too.
            done = sum(
                min(self._disks[disk].done, total)
                for disk, total in self._totals.items()
                if disk in self._disks
            )
            stored = sum(event.stored for event in self._disks.values())
            total = sum(self._totals.values())
        counts = f"; {format_bytes(done)} of {format_bytes(total)}, {format_bytes(stored)} stored"
        return f"{steps}{counts if total else ''}"

    def _beat(self) -> None:
        """Notify the watchdog twice within its timeout, until a disk is silent for too long."""
        assert self._watchdog is not None
        while self.is_well():
            self._send("WATCHDOG=1")
            if self._over.wait(self._watchdog / 2):
                return

    def is_well(self) -> bool:
        """Return whether no disk that is being read has been silent for too long."""
        with self._lock:
            return "read" not in self._steps.values() or time.monotonic() - self._heard < STALL

    def _send(self, state: str) -> None:
        if self._address is None:
            return
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        # A missing service manager must not fail a backup, and one that does not read must not delay it long.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as messenger:
            messenger.settimeout(_PATIENCE)
            messenger.sendto(state.encode(errors="replace"), address)
