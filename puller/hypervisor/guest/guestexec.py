"""Commands inside the guest, which its agent runs.

See ``guest-exec`` and ``guest-exec-status`` in QEMU's ``docs/interop/qemu-ga-ref.html``.
"""

from __future__ import annotations

import time
from base64 import b64decode
from binascii import Error as Base64Error
from typing import Any

from puller.cancelling import CancelScope
from puller.errors import HypervisorError
from puller.hypervisor.guest.agent import Asked
from puller.hypervisor.guest.quiescing import GuestCommand, GuestRun

_PAUSE = 0.2

OUTPUT = 4096
"""Characters of a command's output that are kept."""


def run(agent: Asked, command: GuestCommand, when: str, scope: CancelScope | None = None) -> GuestRun:
    """Run ``command`` in the guest and wait until it ends or its time is over. Raises no HypervisorError.

    A command whose time is over goes on in the guest: the agent cannot end it. Raises Interrupted if
    ``scope`` is cancelled.
    """
    began = time.monotonic()
    code: int | None = None
    try:
        code, output = _run(agent, command, began + command.timeout, scope or CancelScope())
    except HypervisorError as error:
        output = error.message
    return GuestRun(when, command.words, code, round(time.monotonic() - began, 3), output[:OUTPUT])


def _run(agent: Asked, command: GuestCommand, deadline: float, scope: CancelScope) -> tuple[int | None, str]:
    program, *arguments = command.words
    started = _ask(agent, "guest-exec", path=program, arg=arguments, **{"capture-output": True})
    while True:
        state = _ask(agent, "guest-exec-status", pid=started["pid"])
        if state.get("exited"):
            return _code(state), _output(state)
        if time.monotonic() > deadline:
            return None, f"it did not end within {command.timeout:g} s"
        scope.check()
        scope.pause(_PAUSE)


def _ask(agent: Asked, name: str, **arguments: Any) -> dict[str, Any]:
    """Return the agent's answer. Raises HypervisorError, also if it is not one of the protocol's."""
    answer = agent.ask(name, arguments)
    if isinstance(answer, dict) and (name != "guest-exec" or isinstance(answer.get("pid"), int)):
        return answer
    raise HypervisorError(f"the guest agent of domain {agent.name} gave no valid answer to {name}")


def _code(state: dict[str, Any]) -> int | None:
    """Return the exit code, or the negative number of the signal that ended the command."""
    if isinstance(code := state.get("exitcode"), int):
        return code
    return -number if isinstance(number := state.get("signal"), int) else None


def _output(state: dict[str, Any]) -> str:
    texts = []
    for name in ("out-data", "err-data"):
        try:
            texts.append(b64decode(str(state.get(name, ""))).decode("utf-8", "replace"))
        except (Base64Error, ValueError):
            texts.append("")
    return "".join(texts)
