"""What a guest has to give in a restore drill, in text: on the command line and in the configuration."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

Kind = Literal["agent", "console", "tcp", "command"]

AGENT: Kind = "agent"
CONSOLE: Kind = "console"
TCP: Kind = "tcp"
COMMAND: Kind = "command"

_LONGEST = 500
_WAYS = "use agent, console:TEXT, tcp:PORT or command:PROGRAM"


@dataclass(frozen=True, slots=True)
class Evidence:
    """Evidence of one ``kind``. ``value`` is its text, port or program; empty for ``agent``."""

    kind: Kind
    value: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.value}" if self.value else self.kind

    @property
    def port(self) -> int | None:
        """The TCP port to wait for; None for other kinds."""
        return int(self.value) if self.kind == TCP else None


FILESYSTEMS = "filesystems"
"""What is looked at where a machine cannot be started. It cannot be chosen."""

LOGIN = Evidence(CONSOLE, "login:")
"""What nearly every system with a serial console prints when it has started."""


def evidence(word: str) -> Evidence:
    """Read evidence such as ``agent`` or ``console:login:``. Raises ValueError."""
    kind, colon, value = word.partition(":")
    if word == AGENT:
        return Evidence(AGENT)
    if not colon or not value or len(value) > _LONGEST or not value.isprintable():
        raise ValueError(f"invalid evidence '{word}': {_WAYS}")
    if kind == CONSOLE:
        return Evidence(CONSOLE, value)
    if kind == TCP:
        if not value.isdecimal() or not value.isascii() or not 1 <= int(value) <= 65535:
            raise ValueError(f"invalid evidence '{word}': use a port from 1 to 65535")
        return Evidence(TCP, str(int(value)))
    if kind == COMMAND:
        if not os.path.isabs(value):  # noqa: PTH117 - a service starts in another directory than a shell
            raise ValueError(f"invalid evidence '{word}': use the absolute path of a program")
        return Evidence(COMMAND, value)
    raise ValueError(f"invalid evidence '{word}': {_WAYS}")
