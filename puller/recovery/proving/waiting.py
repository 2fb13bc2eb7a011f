"""Waiting for the evidence that a drill's machine has started."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Protocol

from puller.configuration.evidence import AGENT, COMMAND, TCP, Evidence
from puller.errors import UsageError
from puller.hypervisor.domain.domain import Domain
from puller.hypervisor.guest import user_network
from puller.hypervisor.guest.agentstate import AgentState, agent_state
from puller.hypervisor.guest.ending import why_ended
from puller.recovery.proving.consoles import Consoles

STEP = 0.5
"""Seconds between two looks."""

PAUSE = 2.0
"""Seconds after which a program that has found no evidence is called again."""

_NOT_FOR_CHILDREN = ("PULLER_PASSWORD", "PULLER_PASSWORD_FILE", "PULLER_KEY_FILE", "NOTIFY_SOCKET")


class Waiter(Protocol):
    """Looks for one kind of evidence."""

    def is_given(self) -> bool:
        """Look once. Raises HypervisorError."""

    def close(self) -> None:
        """End what the waiter has started."""


@dataclass(frozen=True, slots=True)
class Seen:
    """Result of a wait: the evidence after ``seconds``, or None and the ``reason``."""

    evidence: Evidence | None
    seconds: float
    reason: str = ""


class Agent:
    """Waits for an answer of the guest agent."""

    def __init__(self, domain: Domain) -> None:
        self._domain = domain

    def is_given(self) -> bool:
        """See Waiter."""
        return agent_state(self._domain) is AgentState.ANSWERS

    def close(self) -> None:
        """See Waiter."""


class Text:
    """Waits for a text on a serial console."""

    def __init__(self, consoles: Consoles, text: str) -> None:
        self._consoles = consoles
        self._text = text
        consoles.watch_for(text)

    def is_given(self) -> bool:
        """See Waiter."""
        return self._consoles.has_shown(self._text)

    def close(self) -> None:
        """See Waiter."""


class Port:
    """Waits until a program in the guest accepts a connection at the forwarded port."""

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        self._connection: socket.socket | None = None

    def is_given(self) -> bool:
        """See Waiter. QEMU itself accepts at once, and closes the connection if the guest refuses it."""
        if self._connection is None:
            address = ("127.0.0.1", user_network.forwarded_port(self._domain))
            with suppress(OSError):
                self._connection = socket.create_connection(address, timeout=1.0)
                self._connection.setblocking(False)
            return False
        if user_network.has_accepted(self._domain):
            return True
        if self._is_closed(self._connection):
            self.close()
        return False

    @staticmethod
    def _is_closed(connection: socket.socket) -> bool:
        try:
            return not connection.recv(1)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def close(self) -> None:
        """See Waiter."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Command:
    """Calls a program until it exits with 0. It is ended, with its process group, when the wait ends."""

    def __init__(self, program: str, domain: str, facts: Mapping[str, str]) -> None:
        self._words = [program, domain]
        self._environment = {
            name: value for name, value in os.environ.items() if name not in _NOT_FOR_CHILDREN
        } | dict(facts)
        self._child: subprocess.Popen[bytes] | None = None
        self._again = 0.0

    def is_given(self) -> bool:
        """See Waiter. Raises UsageError if the program cannot be run."""
        if self._child is None:
            if time.monotonic() >= self._again:
                self._start()
            return False
        code = self._child.poll()
        if code is None:
            return False
        self.close()
        self._again = time.monotonic() + PAUSE
        return code == 0

    def _start(self) -> None:
        try:
            # Its output goes to stderr, because stdout is for results.
            self._child = subprocess.Popen(
                self._words,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=2,
                start_new_session=True,
            )
        except OSError as error:
            raise UsageError(
                f"cannot run {self._words[0]}: {error.strerror}", advice="Name an executable program."
            ) from error

    def close(self) -> None:
        """See Waiter."""
        if self._child is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait()
            self._child = None


def waiter_for(evidence: Evidence, domain: Domain, consoles: Consoles, facts: Mapping[str, str]) -> Waiter:
    """Return the waiter for a kind of evidence; ``facts`` are variables for a program."""
    if evidence.kind == AGENT:
        return Agent(domain)
    if evidence.kind == TCP:
        return Port(domain)
    if evidence.kind == COMMAND:
        return Command(evidence.value, domain.name, facts)
    return Text(consoles, evidence.value)


def wait_for(
    waiters: Sequence[tuple[Evidence, Waiter]],
    domain: Domain,
    consoles: Consoles,
    seconds: float,
    check: Callable[[], None],
) -> Seen:
    """Wait until the first of the ``waiters`` has its evidence, for ``seconds`` at most.

    It ends early when the guest gives up, and with the exception of ``check``, which is called at each look.
    Raises Interrupted when the scope of ``domain`` is cancelled.
    """
    began = time.monotonic()
    with ExitStack() as stack:
        for _, waiter in waiters:
            stack.callback(waiter.close)
        while True:
            domain.scope.check()
            check()
            # What ends the wait is looked at first, so that words printed just before the end still count.
            ended, took = why_ended(domain), time.monotonic() - began
            consoles.read()
            for evidence, waiter in waiters:
                if (ended is None or isinstance(waiter, Text)) and waiter.is_given():
                    return Seen(evidence, took)
            if consoles.panicked:
                return Seen(None, took, "the guest's kernel has panicked")
            if ended is not None:
                return Seen(None, took, ended)
            if took >= seconds:
                return Seen(None, took, f"no evidence within {seconds:.0f} s")
            domain.scope.pause(STEP)
