"""Signals: the first asks the command to stop and clean up, one that comes later ends the process at once."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

EXIT_CODE = 130

TOGETHER = 1.0
"""Seconds within which signals are one request. Whoever closes a session sends SIGTERM and SIGHUP at once,
and GNU timeout sends its signal to the command and then to the command's group, microseconds apart."""

_ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(BaseException):
    """A signal asked to stop.

    Not an Exception: it rises out of whatever the main thread is doing, and libraries (botocore's HTTP
    session is one) wrap any Exception and try again.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = signal.Signals(number).name


@contextmanager
def stop_on_signals(stopping: Callable[[], None]) -> Iterator[None]:
    """Raise Stopped in the main thread on the first SIGINT, SIGTERM or SIGHUP, after ``stopping`` was called.

    One that is ignored stays ignored: nohup and shells' background jobs count on it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [number for number in _ASKING if signal.getsignal(number) is not signal.SIG_IGN]
    with _exit_on_second(numbers):
        stopper = _Stopper(stopping)
        before = {number: signal.signal(number, stopper) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class _Stopper:
    """Raises Stopped once: cleaning up must not be stopped half way."""

    def __init__(self, stopping: Callable[[], None]) -> None:
        self._stopping = stopping
        self._raised = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if not self._raised:
            self._raised = True
            self._stopping()
            raise Stopped(number)


@contextmanager
def _exit_on_second(numbers: list[signal.Signals]) -> Iterator[None]:
    """Watch from a thread of its own, because the main thread runs no handler while libvirt or libnbd
    keep it in a call; the interpreter writes a byte for each signal even then.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    previous = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader, numbers), name="signals", daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(previous)
        os.close(writer)


def _watch(reader: int, numbers: list[signal.Signals]) -> None:
    first: float | None = None
    while byte := os.read(reader, 1):
        if byte[0] not in numbers:
            continue
        now = time.monotonic()
        if first is None:
            first = now
        elif now - first > TOGETHER:
            _show_cursor()
            os._exit(EXIT_CODE)
    os.close(reader)


def _show_cursor() -> None:
    """The bars of a terminal hide it, and nobody is left to undo that."""
    with suppress(OSError):
        if os.isatty(2):
            os.write(2, b"\x1b[?25h")
