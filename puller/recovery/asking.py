"""Questions to libvirt of commands that do not depend on it: a restore works where there is none."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import TYPE_CHECKING, TypeVar

from puller.errors import HypervisorError

if TYPE_CHECKING:
    from puller.hypervisor.connection import Host

T = TypeVar("T")

ANSWER_SECONDS = 20.0
"""How long libvirt may take: a daemon that hangs must not stop a restore."""


def ask(uri: str, question: Callable[[Host], T]) -> T:
    """Connect to libvirt at ``uri`` and return the answer to ``question``.

    Raises HypervisorError, also if libvirt is not installed or gives no answer in time.
    """
    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(_ask(uri, question))
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            answer.set_exception(error)

    Thread(target=run, name="ask-libvirt", daemon=True).start()
    try:
        return answer.result(ANSWER_SECONDS)
    except TimeoutError as error:
        raise HypervisorError(f"libvirt at {uri} gives no answer in {ANSWER_SECONDS:.0f} s") from error


def _ask(uri: str, question: Callable[[Host], T]) -> T:
    try:
        from puller.hypervisor.connection import Host
    except ModuleNotFoundError as error:
        raise HypervisorError("Python's module libvirt is not installed") from error
    with Host.connect(uri) as host:
        return question(host)
