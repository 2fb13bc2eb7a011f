"""The way to the host of a libvirt URI."""

from __future__ import annotations

import platform
import socket
from urllib.parse import urlsplit

from puller.cancelling import CancelScope, NoAnswer
from puller.errors import HostUnreachable, HypervisorError, UsageError
from puller.host.access import LOCAL, HostAccess
from puller.host.sshhost import SshHost
from puller.hypervisor.uri import is_local, is_session, place_of, ssh_target

_KNOCK_SECONDS = 10.0
"""Seconds for a connection. Without this limit, libvirt tries for two minutes while the network drops all."""


def access_to(uri: str, scope: CancelScope) -> HostAccess | None:
    """Return the access to the files and programs of the host of ``uri``, or None if the URI names no way.

    Raises HostUnreachable; UsageError for a URI that sends everything in clear text, or names a session.
    """
    if is_local(uri):
        return LOCAL
    if is_session(uri):
        raise UsageError(
            f"cannot use {uri}: puller does not reach the session of a user on another host",
            advice="Run puller on that host as this user with --connect qemu:///session.",
        )
    if urlsplit(uri).path in ("", "/"):
        raise UsageError(
            f"invalid URI '{uri}': it has no path", advice="Add /system, as in qemu+ssh://USER@HOST/system."
        )
    target = ssh_target(uri)
    if target is None:
        _knock(uri, scope)
        return None
    host = SshHost(target)
    host.greet(scope)
    return host


def _knock(uri: str, scope: CancelScope) -> None:
    """Find out soon whether libvirt's port can be reached."""
    transport, name, port = place_of(uri)
    if transport not in ("tls", "tcp"):
        raise UsageError(
            f"invalid URI '{uri}': unknown transport '{transport}'",
            advice="Use qemu+ssh://USER@HOST/system or qemu+tls://HOST/system.",
        )
    if transport == "tcp":
        raise UsageError(
            f"libvirt at {uri} is reached in clear text", advice="Use qemu+ssh:// or qemu+tls:// instead."
        )
    place = (name, port)
    try:
        scope.call(
            lambda: socket.create_connection(place, _KNOCK_SECONDS), lambda: _KNOCK_SECONDS + 1
        ).close()
    except NoAnswer as error:
        scope.check()
        raise HostUnreachable(f"cannot reach host {name}: no answer") from error
    except OSError as error:
        why = error.strerror or "no answer"
        raise HostUnreachable(
            f"cannot reach host {name} at port {port}: {why}",
            advice="Check that the network is up and that libvirt's daemon listens for TLS there.",
        ) from error


def refuse_other_host(uri: str, name: str) -> None:
    """Raise HypervisorError if libvirt at ``uri``, which names this host, calls its host ``name``.

    The daemon is then behind a tunnel, and puller would look for the files of its domains on this host.
    """
    own = platform.node()
    if _first_label(name) not in {_first_label(own), _first_label(_canonical(own))}:
        raise HypervisorError(
            f"libvirt at {uri} is not on this host: it calls its host {name}, and this one is {own}",
            advice="Name that host in the URI, such as qemu+ssh://root@HOST/system.",
        )


def _first_label(name: str) -> str:
    return name.partition(".")[0].lower()


def _canonical(name: str) -> str:
    """Return the full name of a host, as libvirt looks it up for its own; the same if there is none."""
    try:
        return socket.getaddrinfo(name, None, flags=socket.AI_CANONNAME)[0][3] or name
    except OSError:
        return name
