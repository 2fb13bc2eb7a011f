"""Signals: the first asks the command to stop and clean up, a later one ends the process at once."""

from __future__ import annotations

import os
import select
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

_NUDGE = signal.SIGURG
"""Wakes the main thread from a wait. Nobody sends it to a process that has no such sockets, and it is ignored
where nobody listens: so nothing comes of one that arrives late. Go's runtime chose it for that, too."""

_AGAIN = 0.05
"""Seconds between two nudges: one may come just before the main thread begins to wait."""


class Stopped(BaseException):
    """A signal asked to stop.

    Not an Exception: it is raised anywhere in the main thread, and libraries such as botocore's HTTP session
    wrap any Exception and retry.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = signal.Signals(number).name


@contextmanager
def stop_on_signals(stopping: Callable[[], None]) -> Iterator[None]:
    """Raise Stopped in the main thread on the first SIGINT, SIGTERM or SIGHUP, after ``stopping`` was called.

    An ignored signal stays ignored: nohup and shells' background jobs rely on it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [number for number in _ASKING if signal.getsignal(number) is not signal.SIG_IGN]
    stopper = _Stopper(stopping)
    with _watched(numbers, stopper):
        before = {number: signal.signal(number, stopper) for number in numbers}
        before[_NUDGE] = signal.signal(_NUDGE, _do_nothing)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class _Stopper:
    """Raises Stopped once, because cleaning up must not be stopped half-way."""

    def __init__(self, stopping: Callable[[], None]) -> None:
        self._stopping = stopping
        self.raised = threading.Event()

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if not self.raised.is_set():
            self.raised.set()
            self._stopping()
            raise Stopped(number)


def _do_nothing(number: int, frame: FrameType | None) -> None:
    """The main thread is awake; the interpreter now calls the other handlers that waited for it."""


@contextmanager
def _watched(numbers: list[signal.Signals], stopper: _Stopper) -> Iterator[None]:
    """Watch from a thread of its own: the interpreter writes a byte for each signal, whatever happens.

    The kernel gives a signal to any thread, but only the main one runs handlers, and if it waits for another
    thread it does not learn of it: so it is nudged. It runs none either while libvirt or libnbd keep it in a
    call: so the process is ended by a second signal.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    previous = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    arguments = reader, numbers, stopper.raised, threading.get_ident()
    threading.Thread(target=_watch, args=arguments, name="signals", daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(previous)
        os.close(writer)


def _watch(reader: int, numbers: list[signal.Signals], raised: threading.Event, main: int) -> None:
    first: float | None = None
    while byte := os.read(reader, 1) if first is None or raised.is_set() else _nudge(main, reader):
        if byte[0] not in numbers:
            continue
        now = time.monotonic()
        if first is None:
            first = now
        elif now - first > TOGETHER:
            _show_cursor()
            os._exit(EXIT_CODE)
    os.close(reader)


def _nudge(main: int, reader: int) -> bytes:
    """Wake the thread ``main``; return the number of the next signal, if only of the nudge."""
    signal.pthread_kill(main, _NUDGE)
    time.sleep(_AGAIN)
    return os.read(reader, 1) if select.select([reader], [], [], 0)[0] else bytes([_NUDGE])


def _show_cursor() -> None:
    """Show the cursor, which the bars have hidden: no other code will run."""
    with suppress(OSError):
        if os.isatty(2):
            os.write(2, b"\x1b[?25h")
