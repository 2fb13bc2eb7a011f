"""libvirt's events of a domain: of its jobs, and how they ended, and of its starts.

Events come in the thread that runs libvirt's event loop (``puller.hypervisor.connection``), so the
callback does no more than keep what it was told.
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
    """How a backup job ended; ``reason`` is QEMU's, empty where it has none, as of a cancelled one."""

    success: bool
    reason: str


def parse_end(statistics: Mapping[str, Any]) -> JobEnd | None:
    """The end that the statistics of a finished job tell, or None if they are of no backup job.

    The fields are those of ``virDomainGetJobStats`` and of ``VIR_DOMAIN_EVENT_ID_JOB_COMPLETED``.
    """
    operation = statistics.get(libvirt.VIR_DOMAIN_JOB_OPERATION)
    if operation != libvirt.VIR_DOMAIN_JOB_OPERATION_BACKUP:
        return None
    success = bool(statistics.get(libvirt.VIR_DOMAIN_JOB_SUCCESS, False))
    return JobEnd(success, str(statistics.get(libvirt.VIR_DOMAIN_JOB_ERRMSG, "")))


class _Listener:
    """Hears of one domain's events of the number ``kind`` while its context lasts."""

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
        with suppress(libvirt.libvirtError, HypervisorError):  # the connection may be what was lost
            self._connection.domainEventDeregisterAny(self._id)

    def _hear(self, *facts: Any) -> None:
        """Take what libvirt says: the connection, the domain, and what depends on the kind."""
        raise NotImplementedError


class JobEvents(_Listener):
    """Hears of the ends of one domain's backup jobs while its context lasts.

    An event may be of a job that ended just before, so it only says that it is time to look.
    """

    kind = libvirt.VIR_DOMAIN_EVENT_ID_JOB_COMPLETED

    def __init__(self, domain: Domain) -> None:
        super().__init__(domain)
        self._heard = threading.Event()
        self.last: JobEnd | None = None
        """What the newest event said."""

    def forget(self) -> None:
        """Drop what was told of jobs until now, those included that are on their way in the library."""
        _deliver()
        self.last = None
        self._heard.clear()

    def wait(self, seconds: float) -> None:
        """Return when an event comes, or one has come since the last call, or after ``seconds``.

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
"""Seconds to wait for the thread of libvirt's event loop, which calls nothing that takes long."""


class Starts(_Listener):
    """Hears whether one domain is started while its context lasts, even if it has ended again since.

    Starts on another host are not heard.
    """

    kind = libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE

    def __init__(self, domain: Domain) -> None:
        super().__init__(domain)
        self._started = False

    def any(self) -> bool:
        """Whether it was started since. Raises HypervisorError."""
        active = self._domain.is_active()  # its answer comes behind the events that were sent before
        _deliver()
        return active or self._started

    def _hear(self, *facts: Any) -> None:
        if facts[2] == libvirt.VIR_DOMAIN_EVENT_STARTED:
            self._started = True


def _deliver() -> None:
    """Return when the events that the library has received have been told.

    It tells them from a timer, and the loop serves timers in the order in which they were made.
    """
    told = threading.Event()
    timer = libvirt.virEventAddTimeout(0, lambda *_: told.set(), None)
    try:
        told.wait(_DELIVERY)
    finally:
        libvirt.virEventRemoveTimeout(timer)
