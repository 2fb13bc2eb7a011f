"""Calls to libvirt, which may hang with its daemon: each runs in a thread that can be abandoned.

A call may change something, and the code that undoes the change has to know whether it was carried out. So
no call is abandoned at once: after a cancellation, puller waits a little longer for its result. If none
comes, libvirt counts as hung, and later calls on the same connection get only a short time.

The main thread makes its calls itself. The exception of a signal must not be raised while a thread is being
started, where Python sometimes swallows it; the second signal ends the process even if libvirt hangs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import wraps
from typing import Any, Self, TypeVar

from puller.cancelling import CancelScope, NoAnswer, Scoped
from puller.errors import HypervisorError

T = TypeVar("T")

LIMIT = 300.0
"""Seconds for any call. Starting a job waits up to 30 s for another job; starting QEMU takes seconds."""

LEAVE = 15.0
"""Seconds for a call after a cancellation: more than the guest agent may take for a freeze."""

HUNG = 1.0
"""Seconds for a call after an earlier one got no answer."""

_SLICE = 0.2

_ADVICE = "Run 'virsh list' to see whether libvirt's daemon answers. If not, restart it; guests keep running."


class Link:
    """One connection, and whether it hangs."""

    def __init__(self) -> None:
        self._hung = False

    def call(self, scope: CancelScope, ask: Callable[[], T]) -> T:
        """Return the result of ``ask``, or raise its exception. Raises HypervisorError if it hangs."""
        if threading.current_thread() is threading.main_thread():
            return ask()
        try:
            return CancelScope().call(ask, self._limit(scope))
        except NoAnswer as error:
            self._hung = True
            raise HypervisorError("libvirt does not answer", advice=_ADVICE) from error

    def _limit(self, scope: CancelScope) -> Callable[[], float]:
        began = time.monotonic()
        cancelled: list[float] = []

        def left() -> float:
            now = time.monotonic()
            if scope.cancelled and not cancelled:
                cancelled.append(now)
            end = began + HUNG if self._hung else cancelled[0] + LEAVE if cancelled else began + LIMIT
            return min(_SLICE, end - now)

        return left


_LOCAL = frozenset({"name", "UUIDString", "getName", "isAlive"})
"""Methods that make no call to the daemon."""


class Guarded(Scoped):
    """A libvirt handle, or one obtained through it, whose calls belong to a scope."""

    def __init__(self, handle: Any, link: Link, scope: CancelScope) -> None:
        self._handle = handle
        self._link = link
        self.scope = scope

    def within(self, scope: CancelScope) -> Self:
        """See ``Scoped.within``."""
        return type(self)(self._handle, self._link, scope)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._handle, name)
        if name in _LOCAL or not callable(found):
            return found

        @wraps(found)
        def call(*args: Any, **options: Any) -> Any:
            return self._guarded(self._link.call(self.scope, lambda: found(*args, **options)))

        return call

    def apply(self, function: Callable[..., T], *args: Any) -> T:
        """Call a ``function`` of libvirt's that takes the handle, such as those of ``libvirt_qemu``."""
        return self._link.call(self.scope, lambda: function(self._handle, *args))

    def ask_qemu(self, command: str) -> str:
        """Send a command to the QEMU of a domain, and return QEMU's answer; both are JSON."""
        import libvirt_qemu

        return str(self.apply(libvirt_qemu.qemuMonitorCommand, command, 0))

    def _guarded(self, answer: Any) -> Any:
        if isinstance(answer, list):
            return [self._guarded(item) for item in answer]
        if type(answer).__module__ == "libvirt":
            return Guarded(answer, self._link, self.scope)
        return answer
