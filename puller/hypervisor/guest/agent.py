"""A guest agent as a freeze sees it, whatever leads to it: libvirt, or the socket of its channel."""

from __future__ import annotations

from typing import Protocol

from puller.errors import HypervisorError


class Agent(Protocol):
    """The guest agent of one domain. Every method raises HypervisorError without an answer."""

    @property
    def name(self) -> str:
        """The domain's name."""
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

    def freeze(self) -> int:
        """Flush and freeze all file systems, and return their number."""
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
