"""The way to the host of a libvirt URI."""

from __future__ import annotations

from puller.cancelling import CancelScope
from puller.errors import HypervisorError
from puller.host.access import LOCAL, HostAccess
from puller.host.sshhost import SshHost
from puller.hypervisor.uri import is_local, ssh_target


def access_to(uri: str, scope: CancelScope) -> HostAccess:
    """Return the access to the files and programs of the host of ``uri``.

    Raises HostUnreachable, HypervisorError if the URI names no way to them.
    """
    if is_local(uri):
        return LOCAL
    target = ssh_target(uri)
    if target is None:
        raise HypervisorError(
            f"cannot reach the files of the host of {uri}", advice="Use qemu+ssh:// to reach another host."
        )
    host = SshHost(target)
    host.greet(scope)
    return host
