"""What the service manager is told: ready, what is being done, still alive, stopping.

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

from puller.cli.output.console import printable
from puller.events import DiskPlanned, DiskProgress, Event, Step
from puller.units import format_bytes

STALL = 1800.0
"""Seconds without a word from a disk that is being read, after which the watchdog is not told any more
that all is well. Rate limits and retries tell of themselves sooner."""

_STATUS_SECONDS = 2.0
"""How often the status changes at most: systemd wakes up for each."""

_PATIENCE = 1.0
"""Seconds that a full socket may keep a message waiting: Linux keeps only some for one who does not read."""


class Service:
    """A context, to be entered whether or not there is a service manager: without one nobody is told."""

    def __init__(self, address: str | None, watchdog: float | None = None) -> None:
        """``address`` is that of ``NOTIFY_SOCKET``; ``watchdog`` the seconds after which it bites."""
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
        """The service manager that started this process, if one did."""
        address = environment.get("NOTIFY_SOCKET") or None
        ours = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        microseconds = environment.get("WATCHDOG_USEC", "") if ours else ""
        return cls(address, int(microseconds) / 1e6 if microseconds.isdigit() else None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def ready(self) -> None:
        """The command line and the configuration are in order; work begins."""
        self._send("READY=1")
        if self._address is not None and self._watchdog:
            threading.Thread(target=self._beat, name="watchdog", daemon=True).start()

    def stopping(self) -> None:
        """The work is ending, done or interrupted."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """What ``systemctl status`` shows."""
        self._send(f"STATUS={printable(text)}")

    def __call__(self, event: Event) -> None:
        """An observer."""
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
        """It has ended, done or failed: what it did last is no reason to doubt, nor of interest, any more."""
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
            # What is found on the way, and was not in the plan, counts as done too.
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
        """Tell the watchdog that all is well twice in its time, until a disk says nothing for too long."""
        assert self._watchdog is not None
        while self.is_well():
            self._send("WATCHDOG=1")
            if self._over.wait(self._watchdog / 2):
                return

    def is_well(self) -> bool:
        """Whether nothing that is being read has been silent for too long."""
        with self._lock:
            return "read" not in self._steps.values() or time.monotonic() - self._heard < STALL

    def _send(self, state: str) -> None:
        if self._address is None:
            return
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        # Nobody to tell is no reason to fail a backup, and one who does not listen none to wait for long.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as messenger:
            messenger.settimeout(_PATIENCE)
            messenger.sendto(state.encode(errors="replace"), address)
