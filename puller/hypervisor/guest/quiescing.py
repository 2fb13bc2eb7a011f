"""How a guest is quiesced: the choices, and what a run of them records."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

FREEZE_SECONDS = 10
"""Seconds that the agent may take to freeze, and to thaw. File systems flush first. Windows itself holds
writes for 10 s at most; file systems with much to flush, and hooks of the agent, may take longer."""


class Quiesce(Enum):
    """Whether to freeze: ``AUTO`` continues without a freeze if it is impossible, ``ON`` fails."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class GuestCommand:
    """A program inside the guest and its arguments; it counts as failed after ``timeout`` seconds."""

    words: tuple[str, ...]
    timeout: float


@dataclass(frozen=True, slots=True)
class Quiescing:
    """Choices of a freeze of the guest.

    ``timeout`` is in seconds and applies to the freeze and to the thaw. Empty ``mountpoints`` means all file
    systems. ``before`` runs in the guest before the freeze, and ``after`` once it is thawed.
    """

    quiesce: Quiesce = Quiesce.AUTO
    timeout: int = FREEZE_SECONDS
    mountpoints: tuple[str, ...] = ()
    before: GuestCommand | None = None
    after: GuestCommand | None = None

    @property
    def has_commands(self) -> bool:
        """Whether a command is to run in the guest."""
        return self.before is not None or self.after is not None


QUIESCED_IF_POSSIBLE = Quiescing()
"""The default: all file systems, if the guest agent answers."""


@dataclass(frozen=True, slots=True)
class GuestRun:
    """What became of a command in the guest. ``when`` is ``before`` or ``after``.

    ``exit_code`` is None if it did not end in time or could not be started; ``output`` is the beginning of
    what it printed, or the reason.
    """

    when: str
    words: tuple[str, ...]
    exit_code: int | None
    seconds: float
    output: str
