"""The guest agent of a QEMU without libvirt, behind the Unix socket of its channel.

See QEMU's ``docs/interop/qemu-ga-ref``. The socket serves one client at a time. The agent may still be
sending an answer to a client that has gone, so each conversation begins with ``guest-sync-delimited``.
"""

from __future__ import annotations

import json
import re
import secrets
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from puller.cancelling import CancelScope
from puller.errors import HypervisorError
from puller.qmp.machine import QemuMachine

FOREVER = 300.0
"""Seconds to wait for an answer without a limit."""

_SYNC = 5.0
"""Seconds for the agent to answer the first message of a conversation."""

_REFUSAL = re.compile(r"guest-fsfreeze-(?:freeze|thaw) has (?:been disabled|not been found)")

_SENTINEL = b"\xff"
"""Precedes the answer to ``guest-sync-delimited``."""


class Conversation:
    """An open connection to the agent behind ``path``. A context that closes it.

    Raises HypervisorError if nothing listens there, or if the agent does not answer.
    """

    def __init__(self, path: Path, doing: str) -> None:
        self._path = path
        self._doing = doing
        self._received = b""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    def __enter__(self) -> Conversation:
        try:
            self._socket.settimeout(_SYNC)
            self._socket.connect(str(self._path))
            self._synchronise()
        except BaseException as error:
            self._socket.close()
            if isinstance(error, OSError):
                raise self._failed(_reason(error)) from error
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, command: str, seconds: float, arguments: Mapping[str, Any] | None = None) -> Any:
        """Return the answer to ``command``. Raises HypervisorError, also after ``seconds``."""
        try:
            self._send({"execute": command, **({"arguments": arguments} if arguments else {})})
            answer = self._answer(time.monotonic() + seconds)
        except OSError as error:
            raise self._failed(_reason(error)) from error
        if "error" in answer:
            raise self._failed(answer["error"].get("desc", "no reason given"))
        return answer.get("return")

    def _synchronise(self) -> None:
        number = secrets.randbelow(1 << 31)
        self._socket.sendall(_SENTINEL)  # ends what an earlier client has left half sent
        self._send({"execute": "guest-sync-delimited", "arguments": {"id": number}})
        deadline = time.monotonic() + _SYNC
        while self._answer(deadline).get("return") != number:
            pass  # an answer to an earlier client, or the agent's complaint about the byte

    def _send(self, message: dict[str, object]) -> None:
        self._socket.sendall(json.dumps(message).encode() + b"\n")

    def _answer(self, deadline: float) -> dict[str, Any]:
        while b"\n" not in self._received:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._socket.settimeout(left)
            part = self._socket.recv(65536)
            if not part:
                raise ConnectionResetError("the channel was closed")
            self._received += part
        line, _, self._received = self._received.partition(b"\n")
        try:
            found = json.loads(line.rpartition(_SENTINEL)[2])
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def _failed(self, reason: str) -> HypervisorError:
        return HypervisorError(
            f"{self._doing}: {reason}", advice="Check that the guest agent runs in the guest."
        )


class Asked:
    """The agent behind ``path``, for its own commands."""

    def __init__(self, path: Path, name: str = "") -> None:
        self._path = path
        self.name = name or str(path)

    def ask(self, command: str, arguments: Mapping[str, Any]) -> Any:
        """See Agent."""
        with Conversation(self._path, f"cannot run a command in the guest of {self.name}") as agent:
            return agent.ask(command, _SYNC, arguments)


class SocketAgent:
    """See ``puller.hypervisor.guest.agent``: the agent that the connection's URI names, if it names one."""

    def __init__(self, machine: QemuMachine) -> None:
        self._machine = machine
        self._path = machine.monitor.address.agent
        self._seconds = FOREVER
        self.name = machine.name
        self.uuid = machine.uuid

    @property
    def scope(self) -> CancelScope:
        """See Agent."""
        return self._machine.scope

    @property
    def watchdog(self) -> tuple[str, ...] | None:
        """See Agent."""
        return None if self._path is None else ("puller.qmp.thawing", str(self._path))

    def has_channel(self) -> bool:
        """See Agent."""
        return self._path is not None

    def is_running(self) -> bool:
        """See Agent."""
        return self._machine.is_running()

    def is_connected(self) -> bool:
        """See Agent. Only an answer shows that."""
        try:
            with self._conversation("cannot reach the guest agent"):
                return True
        except HypervisorError:
            return False

    def limit(self, seconds: int) -> None:
        """See Agent."""
        self._seconds = float(seconds)

    def unlimit(self) -> None:
        """See Agent. The limit is this process's alone."""
        self._seconds = FOREVER

    def freeze(self, mountpoints: Sequence[str] = ()) -> int:
        """See Agent."""
        doing = "cannot freeze the file systems"
        if not mountpoints:
            return self._count("guest-fsfreeze-freeze", doing)
        return self._count("guest-fsfreeze-freeze-list", doing, {"mountpoints": list(mountpoints)})

    def thaw(self) -> int:
        """See Agent."""
        return self._count("guest-fsfreeze-thaw", "cannot thaw the file systems")

    def refused(self, error: HypervisorError) -> bool:
        """See Agent."""
        return is_refusal(error)

    def froze_nothing(self, error: HypervisorError) -> bool:
        """See Agent."""
        return is_refusal(error)

    def ask(self, command: str, arguments: Mapping[str, Any]) -> Any:
        """See Agent."""
        if self._path is None:
            raise HypervisorError(f"domain {self.name} has no channel for a guest agent")
        return Asked(self._path, self.name).ask(command, arguments)

    def _count(self, command: str, doing: str, arguments: Mapping[str, Any] | None = None) -> int:
        with self._conversation(doing) as agent:
            return int(agent.ask(command, self._seconds, arguments))

    def _conversation(self, doing: str) -> Conversation:
        if self._path is None:
            raise HypervisorError(f"domain {self.name} has no channel for a guest agent")
        return Conversation(self._path, f"{doing} of domain {self.name}")


def is_refusal(error: HypervisorError) -> bool:
    """Return whether the agent answered, and did nothing: its words are always English."""
    return _REFUSAL.search(error.message) is not None


def _reason(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "the guest agent does not answer"
    return error.strerror or str(error)
