"""Questions to libvirt, or to a QEMU, of commands that do not depend on it: a restore works without."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from puller.cancelling import CancelScope, NoAnswer
from puller.errors import HypervisorError

if TYPE_CHECKING:
    from puller.backups.machines.machine import MachineHost
    from puller.hypervisor.connection import Host

T = TypeVar("T")

ANSWER_SECONDS = 20.0
"""How long libvirt may take: a daemon that hangs must not stop a restore."""


def ask(uri: str, scope: CancelScope, question: Callable[[Host], T]) -> T:
    """Connect to libvirt at ``uri`` and return the answer to ``question``.

    Raises HypervisorError, also if libvirt is not installed or gives no answer in time, and Interrupted.
    """
    return _answer(uri, scope, lambda: _ask(uri, scope, question))


def ask_manager(uri: str, scope: CancelScope, question: Callable[[MachineHost], T]) -> T:
    """Do the same where ``uri`` may also lead to a QEMU without libvirt."""
    return _answer(uri, scope, lambda: _ask_manager(uri, scope, question))


def _answer(uri: str, scope: CancelScope, asking: Callable[[], T]) -> T:
    deadline = time.monotonic() + ANSWER_SECONDS
    try:
        return scope.call(asking, lambda: deadline - time.monotonic())
    except NoAnswer as error:
        scope.check()
        raise HypervisorError(f"libvirt at {uri} gives no answer in {ANSWER_SECONDS:.0f} s") from error


def _ask(uri: str, scope: CancelScope, question: Callable[[Host], T]) -> T:
    try:
        from puller.hypervisor.connection import Host
    except ModuleNotFoundError as error:
        raise _missing(error) from error
    with Host.connect(uri, scope) as host:
        return question(host)


def _ask_manager(uri: str, scope: CancelScope, question: Callable[[MachineHost], T]) -> T:
    try:
        from puller.backups.machines.connecting import connect_here
    except ModuleNotFoundError as error:
        raise _missing(error) from error
    with connect_here(uri, scope) as host:
        return question(host)


def _missing(error: ModuleNotFoundError) -> HypervisorError:
    return HypervisorError(f"Python's module {error.name} is not installed")
