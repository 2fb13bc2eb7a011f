"""Questions to libvirt, or to a QEMU, of commands that do not depend on it: a restore works without."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from puller.cancelling import CancelScope, NoAnswer
from puller.errors import HypervisorError

if TYPE_CHECKING:
    from puller.backups.machines.machine import MachineHost

T = TypeVar("T")

ANSWER_SECONDS = 20.0
"""How long libvirt may take: a daemon that hangs must not stop a restore."""


def ask(uri: str, scope: CancelScope, question: Callable[[MachineHost], T]) -> T:
    """Connect to libvirt at ``uri`` and return the answer to ``question``.

    Raises HypervisorError, also if libvirt is not installed or gives no answer in time, and Interrupted.
    """
    deadline = time.monotonic() + ANSWER_SECONDS
    try:
        return scope.call(lambda: _ask(uri, scope, question), lambda: deadline - time.monotonic())
    except NoAnswer as error:
        scope.check()
        raise HypervisorError(f"libvirt at {uri} gives no answer in {ANSWER_SECONDS:.0f} s") from error


def _ask(uri: str, scope: CancelScope, question: Callable[[MachineHost], T]) -> T:
    try:
        from puller.backups.machines.connecting import connect_here
    except ModuleNotFoundError as error:
        raise HypervisorError("Python's module libvirt is not installed") from error
    with connect_here(uri, scope) as host:
        return question(host)
