"""Commands inside the guest, which its agent runs.

See ``guest-exec`` and ``guest-exec-status`` in QEMU's ``docs/interop/qemu-ga-ref.html``. libvirt has no call
of its own for them before 11.0, so they pass through ``virDomainQemuAgentCommand``, which marks the domain as
tainted (``custom-ga-command``).
"""

from __future__ import annotations

import json
import time
from base64 import b64decode
from binascii import Error as Base64Error
from typing import Any

import libvirt_qemu

from puller.cancelling import CancelScope
from puller.errors import HypervisorError
from puller.hypervisor.domain.domain import Domain
from puller.hypervisor.faults import translate
from puller.hypervisor.guest.quiescing import GuestCommand, GuestRun

_ANSWER = 10
"""Seconds that the agent may take to answer; it does not wait for the command."""

_PAUSE = 0.2

OUTPUT = 4096
"""Characters of a command's output that are kept."""


def run(domain: Domain, command: GuestCommand, when: str) -> GuestRun:
    """Run ``command`` in the guest and wait until it ends or its time is over. Raises no HypervisorError.

    A command whose time is over goes on in the guest: the agent cannot end it.
    """
    began = time.monotonic()
    code: int | None = None
    try:
        code, output = _run(domain, command, began + command.timeout)
    except HypervisorError as error:
        output = error.message
    return GuestRun(when, command.words, code, round(time.monotonic() - began, 3), output[:OUTPUT])


def _run(domain: Domain, command: GuestCommand, deadline: float) -> tuple[int | None, str]:
    program, *arguments = command.words
    started = _ask(domain, "guest-exec", path=program, arg=arguments, **{"capture-output": True})
    waiting = CancelScope()  # the command after a freeze has to run even if the backup is being stopped
    while True:
        state = _ask(domain, "guest-exec-status", pid=started["pid"])
        if state.get("exited"):
            return _code(state), _output(state)
        if time.monotonic() > deadline:
            return None, f"it did not end within {command.timeout:g} s"
        waiting.pause(_PAUSE)


def _ask(domain: Domain, name: str, **arguments: Any) -> dict[str, Any]:
    """Return the agent's answer. Raises HypervisorError, also if it is not one of the protocol's."""
    request = json.dumps({"execute": name, "arguments": arguments})
    with translate(f"cannot run a command in domain {domain.name}"):
        text = domain.handle.apply(libvirt_qemu.qemuAgentCommand, request, _ANSWER, 0)
    try:
        answer = json.loads(text)["return"]
        if isinstance(answer, dict) and (name != "guest-exec" or isinstance(answer.get("pid"), int)):
            return answer
    except (ValueError, KeyError, TypeError):
        pass
    raise HypervisorError(f"the guest agent of domain {domain.name} gave no valid answer to {name}")


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
