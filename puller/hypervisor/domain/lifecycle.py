"""Starting, ending and removing a domain that puller has made itself."""

from __future__ import annotations

import libvirt

from puller.hypervisor.domain.domain import Domain
from puller.hypervisor.faults import code_of, translate

_REMOVED_WITH_IT = (
    libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
    | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
)

_TPM = getattr(libvirt, "VIR_DOMAIN_UNDEFINE_TPM", 0)
"""libvirt 8.9 and later."""


def start_paused(domain: Domain, advice: str) -> None:
    """Start the domain with its processors stopped. Raises HypervisorError with ``advice``."""
    with translate(f"cannot start domain {domain.name}", advice):
        domain.handle.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)


def resume(domain: Domain) -> None:
    """Let the processors run."""
    with translate(f"cannot resume domain {domain.name}"):
        domain.handle.resume()


def destroy(domain: Domain) -> None:
    """End the domain's QEMU at once, as a power cut does; fine if it is shut off."""
    with translate(f"cannot end domain {domain.name}"):
        try:
            domain.handle.destroy()
        except libvirt.libvirtError as error:
            if code_of(error) not in (libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_NO_DOMAIN):
                raise


def undefine(domain: Domain) -> None:
    """Remove the domain from libvirt, with its firmware variables, TPM state, snapshots and checkpoints.

    The disks stay.
    """
    with translate(f"cannot undefine domain {domain.name}"):
        try:
            domain.handle.undefineFlags(_REMOVED_WITH_IT | _TPM)
        except libvirt.libvirtError as error:
            if code_of(error) == libvirt.VIR_ERR_NO_DOMAIN:
                return
            if code_of(error) != libvirt.VIR_ERR_INVALID_ARG or not _TPM:
                raise
            domain.handle.undefineFlags(_REMOVED_WITH_IT)  # the daemon is older than the library
