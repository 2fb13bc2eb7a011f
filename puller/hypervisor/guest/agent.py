"""A guest agent as a freeze sees it, whatever leads to it: libvirt, or the socket of its channel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from puller.cancelling import CancelScope
from puller.errors import HypervisorError


class Asked(Protocol):
    """A guest agent that carries out its own commands."""

    @property
    def name(self) -> str:
        """The domain's name."""
        ...

    def ask(self, command: str, arguments: Mapping[str, Any]) -> Any:
        """Send a command that is answered at once, and return the answer. Raises HypervisorError."""
        ...


class Agent(Asked, Protocol):
    """The guest agent of one domain. Every method raises HypervisorError without an answer."""

    @property
    def scope(self) -> CancelScope:
        """The scope of the waits of the run."""
        ...

    @property
    def uuid(self) -> str:
        """The domain's UUID."""
        ...

    @property
    def watchdog(self) -> tuple[str, ...] | None:
        """Module and arguments of the process that thaws if this one cannot; None if no other can."""
        ...

    def has_channel(self) -> bool:
        """Return whether the domain has a channel for an agent."""
        ...

    def is_running(self) -> bool:
        """Return whether the guest's processors run."""
        ...

    def is_connected(self) -> bool:
        """Return whether an agent has opened the channel, as far as that is known without asking it."""
        ...

    def limit(self, seconds: int) -> None:
        """Set how many seconds later calls wait for an answer."""
        ...

    def unlimit(self) -> None:
        """Undo ``limit``, for other users of the agent."""
        ...

    def freeze(self, mountpoints: Sequence[str] = ()) -> int:
        """Flush and freeze the file systems at ``mountpoints``, by default all; return their number."""
        ...

    def thaw(self) -> int:
        """Thaw all file systems, and return how many were frozen."""
        ...

    def refused(self, error: HypervisorError) -> bool:
        """Return whether ``error`` says that the agent answered, and did nothing."""
        ...

    def froze_nothing(self, error: HypervisorError) -> bool:
        """Return whether a freeze that failed with ``error`` has frozen nothing, and never will."""
        ...
