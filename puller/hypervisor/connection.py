"""A connection to libvirt, on this host or on another."""

from __future__ import annotations

import threading
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from functools import cache
from operator import is_not
from shlex import quote
from typing import Any, Self

import libvirt

from puller.cancelling import CancelScope, Scoped
from puller.errors import HypervisorError, NoSuchDomain, UsageError
from puller.host.access import LOCAL, HostAccess
from puller.host.closed import ClosedHost
from puller.hypervisor.calls import Guarded, Link
from puller.hypervisor.domain.disks import sources, volume
from puller.hypervisor.domain.disks.pool import Pool
from puller.hypervisor.domain.domain import Domain
from puller.hypervisor.faults import code_of, translate
from puller.hypervisor.reach import access_to, refuse_other_host
from puller.hypervisor.uri import host_of, is_embedded, is_local, is_monitor, may_be_tunnel, state_directory

_QEMU = "{http://libvirt.org/schemas/domain/qemu/1.0}"
_SWITCHED_ON = f"./{_QEMU}capabilities/{_QEMU}add[@capability='incremental-backup']"

_KEEP_ALIVE = (5, 5)
"""Seconds between two signs of life of another host's libvirt, and how many may be missed: 30 s, as ssh."""

Version = tuple[int, int, int]
"""Major, minor, release."""


class Host(Scoped):
    """Connection to libvirt's QEMU driver through one URI. A context that closes it.

    ``access`` leads to the files and programs of the host on which the domains run.
    """

    def __init__(
        self, connection: Any, uri: str, scope: CancelScope | None = None, access: HostAccess = LOCAL
    ) -> None:
        self._connection = connection
        self.uri = uri
        self.access = access
        self.scope = scope or CancelScope()
        # libvirt may start a QEMU for each of these queries, which takes seconds without KVM.
        self._told: dict[tuple[str | None, ...], str] = {}
        self._asking = threading.Lock()

    @classmethod
    def connect(cls, uri: str, scope: CancelScope | None = None) -> Self:
        """Open ``uri``, such as ``qemu:///system``. Waits for libvirt belong to ``scope``.

        Raises :class:`HypervisorError` if libvirt does not answer or refuses, and if the URI names
        another host: see ``reach``. Raises :class:`UsageError` if it names a QEMU without libvirt.
        """
        _refuse_monitor(uri)
        if not is_local(uri):
            raise HypervisorError(
                f"libvirt at {uri} is on another host", advice="Run puller on the host that runs the domains."
            )
        return cls._open(uri, scope or CancelScope(), LOCAL)

    @classmethod
    def reach(cls, uri: str, scope: CancelScope | None = None) -> Self:
        """Open ``uri``, which may name another host. For callers that go to its files by ``access``.

        Raises HypervisorError as ``connect`` does, and HostUnreachable.
        """
        _refuse_monitor(uri)
        scope = scope or CancelScope()
        access = access_to(uri, scope)
        try:
            return cls._open(uri, scope, access)
        except BaseException:
            if access is not None:
                access.close()
            raise

    @classmethod
    def _open(cls, uri: str, scope: CancelScope, access: HostAccess | None) -> Self:
        prepare_library()
        advice = (
            "Check that libvirt's daemon runs and that you have access, or set another URI with --connect."
        )
        with translate(f"cannot connect to libvirt at {uri}", advice):
            link = Link()
            opening = open_embedded if is_embedded(uri) else libvirt.open
            connection = link.call(scope, lambda: opening(uri))
            if access is not LOCAL:
                connection.setKeepAlive(*_KEEP_ALIVE)
            elif may_be_tunnel(uri):
                refuse_other_host(uri, str(connection.getHostname()))
            if access is None:
                access = ClosedHost(host_of(uri), str(connection.getHostname()))
            return cls(Guarded(connection, link, scope), uri, scope, access)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. Its domains can no longer be used."""
        self.access.close()
        if is_embedded(self.uri):
            return
        with translate(f"cannot close the connection to libvirt at {self.uri}"):
            self._connection.close()

    def is_alive(self) -> bool:
        """Return whether the connection is alive, as far as libvirt's library has noticed."""
        try:
            return bool(self._connection.isAlive())
        except libvirt.libvirtError:
            return False

    def domain(self, name: str) -> Domain:
        """Return the domain of this name or UUID. Raises :class:`NoSuchDomain`."""
        with translate(f"cannot look up domain {name}"):
            for lookup in self._lookups(name):
                if (handle := _found(lookup, name)) is not None:
                    return self._domain(handle)
        advice = f"List the domains with 'virsh --connect {quote(self.uri)} list --all'."
        raise NoSuchDomain(
            f"libvirt at {self.uri} has no domain {name}", advice=None if is_local(self.uri) else advice
        )

    def sources_in_use(self) -> Iterator[tuple[str, str]]:
        """Yield (domain, path) for all storage of the active domains, backing images included."""
        active = libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE
        with translate(f"cannot read which storage the domains of {self.uri} use"):
            for handle in self._connection.listAllDomains(active):
                name = handle.name()
                try:
                    xml = handle.XMLDesc(0)
                except libvirt.libvirtError as error:
                    if code_of(error) == libvirt.VIR_ERR_NO_DOMAIN:  # the domain has just ended
                        continue
                    raise
                yield from ((name, path) for path in sources.paths(xml))
                yield from ((name, path) for path in self._volume_paths(xml))

    def active_domains(self) -> tuple[Domain, ...]:
        """Return the domains that run or are paused."""
        with translate(f"cannot list the domains of {self.uri}"):
            found = self._connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
            return tuple(map(self._domain, found))

    def uuids(self) -> dict[str, str]:
        """Return the UUID of every domain, running or not, by name."""
        with translate(f"cannot list the domains of {self.uri}"):
            return {handle.name(): handle.UUIDString() for handle in self._connection.listAllDomains()}

    def define(self, xml: str, advice: str) -> Domain:
        """Define the domain of ``xml``, or change the definition of the one of this name and UUID.

        Raises HypervisorError with ``advice`` if libvirt refuses.
        """
        with translate("cannot define the domain", advice):
            return self._domain(self._connection.defineXML(xml))

    def networks(self) -> frozenset[str]:
        """Return the names of libvirt's networks, active or not."""
        with translate(f"cannot list the networks of {self.uri}"):
            return frozenset(network.name() for network in self._connection.listAllNetworks())

    def inactive_networks(self) -> frozenset[str]:
        """Return the names of libvirt's networks that are not active."""
        with translate(f"cannot list the networks of {self.uri}"):
            asleep = self._connection.listAllNetworks(libvirt.VIR_CONNECT_LIST_NETWORKS_INACTIVE)
            return frozenset(network.name() for network in asleep)

    def start_transient(self, xml: str, advice: str) -> Domain:
        """Start the domain of ``xml`` without defining it, with its processors stopped.

        libvirt's daemon ends it when this connection is closed, also because this process has died; the
        embedded driver cannot. Raises HypervisorError with ``advice`` if libvirt or QEMU refuses.
        """
        flags = libvirt.VIR_DOMAIN_START_PAUSED
        if not is_embedded(self.uri):
            flags |= libvirt.VIR_DOMAIN_START_AUTODESTROY
        with translate("cannot start the machine", advice):
            made = self._connection.createXML(xml, flags)
            return Domain(made, state_directory(self.uri), self.scope)

    def why_it_cannot_run(self, xml: str) -> str | None:
        """Return why this host cannot run the domain of ``xml``, in libvirt's words; None if it can."""
        kind = _emulation(ET.fromstring(xml))
        try:
            with translate("this host cannot run the machine"):
                self._once(kind, lambda: self._connection.getDomainCapabilities(*kind))
        except HypervisorError as error:
            return error.message
        return None

    def pool(self, name: str) -> Pool:
        """The storage pool of this name. Raises HypervisorError if there is none."""
        return Pool(self._connection, name)

    @property
    def libvirt_version(self) -> Version:
        """Return the version of libvirt's daemon, not of the library in this process."""
        with translate(f"cannot read the version of libvirt at {self.uri}"):
            return _version(self._connection.getLibVersion())

    @property
    def qemu_version(self) -> Version:
        """Return the version of the QEMU that this libvirt starts by default."""
        with translate(f"cannot read QEMU's version from libvirt at {self.uri}"):
            return _version(self._connection.getVersion())

    def capabilities(self) -> str:
        """Return the capabilities XML of this host: https://libvirt.org/formatcaps.html."""
        with translate(f"cannot read the capabilities of libvirt at {self.uri}"):
            return self._once((), self._connection.getCapabilities)

    def supports_backup(self, domain: Domain) -> bool:
        """Return whether libvirt can take incremental backups of a domain with this emulator and machine.

        libvirt decides by its own version and QEMU's (https://libvirt.org/formatdomaincaps.html, ``backup``).
        Before 7.6 it said no, and the domain's XML could switch it on; switching it off there has no effect
        (seen with 9.0).
        """
        machine = ET.fromstring(domain.xml())
        if machine.find(_SWITCHED_ON) is not None:
            return True
        with translate(f"cannot read what libvirt at {self.uri} supports for domain {domain.name}"):
            kind = _emulation(machine)
            text = self._once(kind, lambda: self._connection.getDomainCapabilities(*kind))
        return ET.fromstring(text).find("./features/backup[@supported='yes']") is not None

    def _domain(self, handle: Any) -> Domain:
        return Domain(handle, state_directory(self.uri), self.scope, self.access)

    def _once(self, about: tuple[str | None, ...], ask: Callable[[], Any]) -> str:
        """Cache an answer of libvirt that stays the same while the connection lasts."""
        with self._asking:
            if about not in self._told:
                self._told[about] = str(ask())
            return self._told[about]

    def _volume_paths(self, xml: str) -> Iterator[str]:
        for pool, name in sources.volumes(xml):
            if (found := volume.lookup(self._connection, pool, name)) is not None:
                yield str(found[1])

    def _lookups(self, name: str) -> tuple[Callable[[str], Any], ...]:
        """Names come first: a domain's name may equal another domain's UUID."""
        by_name, by_uuid = self._connection.lookupByName, self._connection.lookupByUUIDString
        return (by_name, by_uuid) if _is_uuid(name) else (by_name,)


def _refuse_monitor(uri: str) -> None:
    if is_monitor(uri):
        raise UsageError(
            f"cannot use {uri} for this: a QEMU without libvirt can only be backed up",
            advice="Name libvirt with --connect, such as qemu:///system, or restore with --output.",
        )


def _emulation(machine: ET.Element) -> tuple[str | None, str | None, str | None, str | None]:
    """Return emulator, architecture, machine type and kind of virtualisation of a domain's XML."""
    kind = machine.find("./os/type")
    arch, model = (None, None) if kind is None else (kind.get("arch"), kind.get("machine"))
    return machine.findtext("./devices/emulator"), arch, model, machine.get("type")


def _found(lookup: Callable[[str], Any], name: str) -> Any:
    """Return the handle, or None if libvirt has no such domain."""
    try:
        return lookup(name)
    except libvirt.libvirtError as error:
        if code_of(error) == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise


def _is_uuid(name: str) -> bool:
    try:
        uuid.UUID(name)
    except ValueError:
        return False
    return True


def _version(number: int) -> Version:
    """libvirt's ``major * 1,000,000 + minor * 1,000 + release``."""
    return number // 1_000_000, number // 1_000 % 1_000, number % 1_000


def open_embedded(uri: str) -> Any:
    """Return this process's connection to an embedded driver, which stays open until the process ends.

    Each opening registers the driver again, and libvirt 9.0 accepts about ten ("Too many drivers"). Two
    threads must not do it at once either ("already registered").
    """
    with _OPENING:
        return _open_once(uri)


_OPENING = threading.Lock()


@cache
def _open_once(uri: str) -> Any:
    return libvirt.open(uri)


@cache
def prepare_library() -> None:
    """Prepare libvirt's library, once in a process, before its first connection.

    The embedded driver needs an event loop that is registered before the connection is opened. The error
    handler keeps libvirt from printing errors to stderr: puller raises all of them. It must not be a Python
    function: a signal handler would run inside it, and an exception raised there would leave the call as a
    SystemError, which stops nothing. So it is a C function that takes two arguments and does nothing.
    """
    libvirt.registerErrorHandler(is_not, None)
    libvirt.virEventRegisterDefaultImpl()
    threading.Thread(target=_run_events, name="libvirt-events", daemon=True).start()


def _run_events() -> None:
    while True:
        libvirt.virEventRunDefaultImpl()
