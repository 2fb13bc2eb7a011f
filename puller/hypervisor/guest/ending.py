"""A guest that was started for a while: it comes after all others, and may end by itself."""

from __future__ import annotations

from contextlib import suppress

import libvirt

from puller.hypervisor.domain.domain import Domain
from puller.hypervisor.faults import code_of, translate

SHARES = 16
"""Processor shares; others have 1024."""

WEIGHT = 10
"""Weight of input and output; others have 100 or more."""


def yield_to_others(domain: Domain) -> None:
    """Give the domain's QEMU few processor shares and little input and output, where libvirt has cgroups."""
    with suppress(libvirt.libvirtError):
        domain.handle.setSchedulerParametersFlags({"cpu_shares": SHARES}, libvirt.VIR_DOMAIN_AFFECT_LIVE)
    with suppress(libvirt.libvirtError):
        domain.handle.setBlkioParameters({"weight": WEIGHT}, libvirt.VIR_DOMAIN_AFFECT_LIVE)


def why_ended(domain: Domain) -> str | None:
    """Return why the guest no longer runs; None while it does."""
    with translate(f"cannot ask for the state of domain {domain.name}"):
        try:
            state, reason = domain.handle.state()
        except libvirt.libvirtError as error:
            if code_of(error) != libvirt.VIR_ERR_NO_DOMAIN:
                raise
            return "the machine has powered itself off"
    if state in (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_BLOCKED):
        return None
    if state == libvirt.VIR_DOMAIN_CRASHED or reason == libvirt.VIR_DOMAIN_SHUTOFF_CRASHED:
        return "the machine has crashed"
    if state == libvirt.VIR_DOMAIN_PAUSED and reason == libvirt.VIR_DOMAIN_PAUSED_IOERROR:
        return "the machine has stopped at an error of its disk"
    if state == libvirt.VIR_DOMAIN_PMSUSPENDED:
        return "the machine has suspended itself"
    return "the machine has powered itself off"
