"""The way from puller to the exports of QEMU: a Unix socket, one behind ssh, or a TCP port."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

from puller.errors import HostUnreachable, UsageError
from puller.host.access import LOCAL
from puller.hypervisor.domain.domain import Domain
from puller.hypervisor.job.job import require_short, socket_path
from puller.hypervisor.job.listener import Listener, UnixListener
from puller.hypervisor.job.tcp import OverTcp, TcpListener

_SECONDS = 30.0
"""Seconds for a question that the other host answers at once."""

Way = Callable[[Domain, str], Listener]
"""Returns where QEMU listens in the job that creates a checkpoint. Raises UsageError, HypervisorError."""


def unix_socket(domain: Domain, checkpoint: str) -> UnixListener:
    """Let QEMU listen at a socket in the domain's directory; ssh forwards that of another host."""
    socket = socket_path(domain, checkpoint)
    require_short(socket)
    return UnixListener(socket, domain.host)


def way_to(domain: Domain, tcp: OverTcp | None) -> tuple[Way, str | None]:
    """Return the way that the host of the domain offers, and a notice of it for another host.

    Raises UsageError if the user's choice and the host do not fit.
    """
    name = domain.host.name
    if domain.host is LOCAL:
        if tcp is not None:
            raise UsageError(
                f"cannot read domain {domain.name} over TCP: it runs on this host",
                advice="Leave out --nbd-tls and --insecure-nbd: puller reads a Unix socket.",
            )
        return unix_socket, None
    if tcp is not None:
        kind = "over TLS" if tcp.certificates else "in clear text, which the network can read,"
        return lambda domain, _: TcpListener(tcp, str(name)), f"reads the disks {kind} from host {name}"
    if not domain.host.has_files:
        raise UsageError(
            f"cannot read the disks of domain {domain.name}: host {name} offers no way to QEMU without TLS",
            advice="Add --nbd-tls DIR with certificates, or connect with qemu+ssh://.",
        )
    if not is_root(domain):
        raise UsageError(
            f"cannot read the disks of domain {domain.name} through ssh: the user of ssh on host {name} is "
            "not root, and QEMU's socket is open to root only",
            advice="Connect as root, or read the disks over TLS with --nbd-tls DIR.",
        )
    return unix_socket, f"reads the disks through ssh from host {name}"


def is_root(domain: Domain) -> bool:
    """Return whether puller may do everything on the host of ``domain``, if that is another host.

    Only root and QEMU's user may enter libvirt's directory of a domain, and read what QEMU writes. Raises
    HostUnreachable.
    """
    if domain.host is LOCAL:
        return True
    try:
        return domain.host.run(["id", "-u"], _SECONDS).stdout.strip() == b"0"
    except subprocess.TimeoutExpired as error:
        raise HostUnreachable(f"host {domain.host.name} did not answer within {_SECONDS:.0f} s") from error
