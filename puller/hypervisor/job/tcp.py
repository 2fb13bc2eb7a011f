"""A pull job whose exports QEMU serves at a TCP port, with TLS."""

from __future__ import annotations

import random
import socket
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import quote

from puller.errors import HypervisorError, UsageError
from puller.host.ports import ports as port_range
from puller.hypervisor.job.listener import Listener

PORTS = "10809-10872"
"""The first is NBD's own port."""

_CERTIFICATES = (
    "Let QEMU's user read the certificates in backup_tls_x509_cert_dir of the hypervisor host "
    "(docs/hosts.md, 'Certificates step by step')."
)

_TAKEN = "Address already in use"
"""QEMU's words for EADDRINUSE; libvirt starts it with ``LC_ALL=C``."""

_ADVICE = {
    "Cannot assign requested address": "Give an address of the hypervisor host itself with --nbd-address.",
    "Unable to access credentials": _CERTIFICATES,
    "Cannot load certificate": _CERTIFICATES,
}
"""Advice for further messages of QEMU, which libvirt passes on."""


@dataclass(frozen=True, slots=True)
class OverTcp:
    """How to reach QEMU over TCP. ``certificates`` is None only if clear text is allowed.

    ``address`` is where QEMU listens; None stands for the address of libvirt's host.
    """

    certificates: Path | None
    ports: range
    address: str | None


def over_tcp(tls: str | None, ports: str | None, address: str | None, *, insecure: bool) -> OverTcp | None:
    """Return the choices of a user; None if they choose no TCP. Raises UsageError."""
    if tls is None and not insecure:
        if ports is not None or address is not None:
            raise UsageError(
                "NBD ports and addresses are for disks that are read over TLS",
                advice="Add --nbd-tls DIR, or leave out --nbd-ports and --nbd-address.",
            )
        return None
    if tls is not None and insecure:
        raise UsageError(
            "cannot use both TLS and clear text", advice="Choose one of --nbd-tls and --insecure-nbd."
        )
    if tls is not None:
        from puller.host.certificates import check_certificates  # with the parser of certificates

        check_certificates(Path(tls))
    if address is not None:
        _refuse_own(address, insecure=insecure)
    return OverTcp(None if tls is None else Path(tls).absolute(), _range(ports or PORTS), address)


def _refuse_own(address: str, *, insecure: bool) -> None:
    """Raise UsageError for an address at which puller would reach its own host, and read another's disks.

    With TLS, the name in the certificate tells; a user may have forwarded a port of the loopback.
    """
    try:
        found = ip_address(address)
    except ValueError:
        return  # a name
    if found.is_unspecified or (insecure and found.is_loopback):
        raise UsageError(
            f"cannot read disks from {address}: this address leads to this host",
            advice="Name the address of the hypervisor host with --nbd-address, at which QEMU listens and to "
            "which puller connects.",
        )


def _range(text: str) -> range:
    try:
        return port_range(text)
    except ValueError as error:
        fact, _, what = str(error).partition(": ")
        raise UsageError(fact, advice=f"{what.capitalize()}.") from error


class TcpListener(Listener):
    """A free port out of a range, on ``host`` or at an address of it."""

    def __init__(self, way: OverTcp, host: str) -> None:
        self._way = way
        self._host = way.address or host
        self._address = _address_of(self._host)
        self._ports = _from_anywhere(way.ports)
        self._port = next(self._ports)

    def element(self) -> ET.Element:
        """See Listener."""
        element = ET.Element("server", transport="tcp", name=self._address, port=str(self._port))
        if self._way.certificates is not None:
            element.set("tls", "yes")
        return element

    def opened(self) -> AbstractContextManager[object]:
        """See Listener."""
        return nullcontext()

    def uri(self, export: str) -> str:
        """See Listener."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        place = f"{host}:{self._port}/{quote(export, safe='')}"
        if self._way.certificates is None:
            return f"nbd://{place}"
        return f"nbds://{place}?tls-certificates={quote(str(self._way.certificates), safe='/')}"

    def elsewhere(self, error: HypervisorError) -> bool:
        """See Listener: the port may be in use."""
        if _TAKEN not in error.message:
            for words, advice in _ADVICE.items():
                if words in error.message:
                    raise HypervisorError(error.message, advice=advice) from error
            return False
        port = next(self._ports, None)
        if port is None:
            ports = self._way.ports
            raise HypervisorError(
                f"all ports from {ports[0]} to {ports[-1]} of {self._host} are in use",
                advice="Give more ports with --nbd-ports, or run fewer backups at once.",
            ) from error
        self._port = port
        return True


def _from_anywhere(ports: range) -> Iterator[int]:
    """Yield all ports, from a random one on: runs of several domains then rarely meet."""
    start = random.randrange(len(ports))
    yield from (ports[(start + number) % len(ports)] for number in range(len(ports)))


def _address_of(host: str) -> str:
    """Return the address of a name, as this host sees it: the other one may know itself by its loopback."""
    try:
        return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError as error:
        raise UsageError(
            f"cannot find the address of {host}: {error.strerror}",
            advice="Name the address at which QEMU is to listen with --nbd-address.",
        ) from error
