"""The lock on this host that keeps two pullers from booting, resuming or discarding the same machine."""

from __future__ import annotations

from puller.hypervisor.locking.lock import HostLock, lock_directory
from puller.recovery.booting.record import Booted


def machine_held(booted: Booted) -> HostLock:
    """Hold the machine while it is booted, resumed or discarded. Entering raises Locked."""
    what = f"machine {booted.name} is being booted, resumed or discarded"
    return HostLock(lock_directory() / f"boot-{booted.uuid}.lock", what)
