"""libvirt's events of a domain: the ends of its jobs, and its starts.

Events arrive in the thread that runs libvirt's event loop (``puller.hypervisor.connection``), so the
callback only stores them.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

import libvirt

from puller.errors import HypervisorError
from puller.hypervisor.domain.domain import Domain
from puller.hypervisor.faults import translate


@dataclass(frozen=True, slots=True)
class JobEnd:
    """How a backup job ended; ``reason`` is QEMU's, empty if it gave none, as for a cancelled job."""

    success: bool
    reason: str


def parse_end(statistics: Mapping[str, Any]) -> JobEnd | None:
    """Return the end in the statistics of a finished job, or None if it was not a backup job.

    The fields are those of ``virDomainGetJobStats`` and of ``VIR_DOMAIN_EVENT_ID_JOB_COMPLETED``.
    """
    operation = statistics.get(libvirt.VIR_DOMAIN_JOB_OPERATION)
    if operation != libvirt.VIR_DOMAIN_JOB_OPERATION_BACKUP:
        return None
    success = bool(statistics.get(libvirt.VIR_DOMAIN_JOB_SUCCESS, False))
    return JobEnd(success, str(statistics.get(libvirt.VIR_DOMAIN_JOB_ERRMSG, "")))


class _Listener:
    """Receives one domain's events of the number ``kind`` while its context lasts."""

    kind: int

    def __init__(self, domain: Domain) -> None:
        self._domain = domain

    def __enter__(self) -> Self:
        self._connection = self._domain.handle.connect()
        with translate(f"cannot listen for events of domain {self._domain.name}"):
            self._id = self._connection.domainEventRegisterAny(
                self._domain.handle, self.kind, self._hear, None
            )
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(libvirt.libvirtError, HypervisorError):  # the connection may be lost
            self._connection.domainEventDeregisterAny(self._id)

    def _hear(self, *facts: Any) -> None:
        """Receive an event: the connection, the domain, and arguments that depend on the kind."""
        raise NotImplementedError


class JobEvents(_Listener):
    """Receives the ends of one domain's backup jobs while its context lasts.

    An event may be of a job that ended just before, so it only says that it is time to check.
    """

    kind = libvirt.VIR_DOMAIN_EVENT_ID_JOB_COMPLETED

    def __init__(self, domain: Domain) -> None:
        super().__init__(domain)
        self._heard = threading.Event()
        self.last: JobEnd | None = None
        """The newest event."""

    def forget(self) -> None:
        """Drop all events of jobs until now, including those that the library has not delivered yet."""
        _deliver()
        self.last = None
        self._heard.clear()

    def wait(self, seconds: float) -> None:
        """Wait until an event has come since the last call, or for ``seconds``.

        Raises Interrupted when the domain's scope is cancelled.
        """
        scope = self._domain.scope
        with scope.calling(self._heard.set):
            if self._heard.wait(seconds):
                self._heard.clear()
        scope.check()

    def _hear(self, *facts: Any) -> None:
        end = parse_end(facts[2])
        if end is not None:
            self.last = end
            self._heard.set()


_DELIVERY = 10.0
"""Seconds to wait for the thread of libvirt's event loop, which makes no long calls."""


class Starts(_Listener):
    """Receives the starts of one domain while its context lasts, even if it has ended again since.

    Starts on another host are not noticed.
    """

    kind = libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE

    def __init__(self, domain: Domain) -> None:
        super().__init__(domain)
        self._started = False

    def any(self) -> bool:
        """Return whether the domain was started since. Raises HypervisorError."""
        active = self._domain.is_active()  # its answer follows the events that were sent before
        _deliver()
        return active or self._started

    def _hear(self, *facts: Any) -> None:
        if facts[2] == libvirt.VIR_DOMAIN_EVENT_STARTED:
            self._started = True


def _deliver() -> None:
    """Wait until the library has delivered the events that it has received.

    It delivers them from a timer, and the loop serves timers in the order of their creation.
    """
    told = threading.Event()
    timer = libvirt.virEventAddTimeout(0, lambda *_: told.set(), None)
    try:
        told.wait(_DELIVERY)
    finally:
        libvirt.virEventRemoveTimeout(timer)
