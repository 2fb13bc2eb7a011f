"""The connection to whoever manages a machine, by its URI."""

from __future__ import annotations

from puller.backups.machines.libvirt import LibvirtHost
from puller.backups.machines.machine import MachineHost
from puller.cancelling import CancelScope
from puller.hypervisor.connection import Host
from puller.hypervisor.uri import is_monitor


def connect(uri: str, scope: CancelScope | None = None) -> MachineHost:
    """Connect to libvirt, or to the monitor of a QEMU, at ``uri``, which may name another host.

    Raises HypervisorError if it cannot be reached, UsageError for an invalid URI.
    """
    return _monitored(uri, scope) if is_monitor(uri) else LibvirtHost(Host.reach(uri, scope))


def connect_here(uri: str, scope: CancelScope) -> MachineHost:
    """Connect to ``uri`` on this host. Raises HypervisorError for another host."""
    return _monitored(uri, scope) if is_monitor(uri) else LibvirtHost(Host.connect(uri, scope))


def _monitored(uri: str, scope: CancelScope | None) -> MachineHost:
    from puller.backups.machines.qemu import MonitoredHost  # asyncio, which only this needs

    return MonitoredHost.connect(uri, scope)
