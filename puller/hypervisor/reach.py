"""The way to the host of a libvirt URI."""

from __future__ import annotations

from puller.cancelling import CancelScope
from puller.host.access import LOCAL, HostAccess
from puller.host.sshhost import SshHost
from puller.hypervisor.uri import is_local, ssh_target


def access_to(uri: str, scope: CancelScope) -> HostAccess | None:
    """Return the access to the files and programs of the host of ``uri``, or None if the URI names no way.

    Raises HostUnreachable.
    """
    if is_local(uri):
        return LOCAL
    target = ssh_target(uri)
    if target is None:
        return None
    host = SshHost(target)
    host.greet(scope)
    return host
