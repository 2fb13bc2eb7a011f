"""The booted machines of this host, and how they are."""

from __future__ import annotations

from dataclasses import dataclass

from puller.cancelling import CancelScope
from puller.errors import HypervisorError
from puller.hypervisor.connection import Host
from puller.recovery.booting import image_server, record
from puller.recovery.booting.discard import find_domain
from puller.recovery.booting.record import Booted
from puller.recovery.targets.asking import ask


@dataclass(frozen=True, slots=True)
class ListedMachine:
    """A booted machine.

    ``active`` is None if libvirt does not say; ``served`` is whether the image server answers.
    """

    record: Booted
    active: bool | None
    served: bool


def listed(scope: CancelScope) -> list[ListedMachine]:
    """Return all booted machines, by name. Raises PullerError for a record that cannot be read."""
    return [
        ListedMachine(booted, _is_active(booted, scope), image_server.is_ready(booted))
        for booted in record.records()
    ]


def _is_active(booted: Booted, scope: CancelScope) -> bool | None:
    def question(host: Host) -> bool:
        domain = find_domain(booted, host)
        return domain is not None and domain.is_active()

    try:
        return ask(booted.connect, scope, question)
    except HypervisorError:
        return None
