"""Facts in a libvirt URI, without asking libvirt: its host, and the state directory of the QEMU driver.

See https://libvirt.org/uri.html and https://libvirt.org/drvqemu.html (URIs and embedded driver).
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from puller.errors import UsageError
from puller.host.ssh import SshTarget

_BY_SSH = frozenset({"ssh", "libssh", "libssh2"})

_PORTS = {"tls": 16514, "tcp": 16509}

_ADVICE = "Name libvirt as in qemu+ssh://root@HOST:PORT/system; an IPv6 address is written in brackets."

_THIS_HOST = frozenset({None, "localhost", "127.0.0.1", "::1"})


def is_local(uri: str) -> bool:
    """Return whether ``uri`` leads to libvirt on this host.

    ssh to a port of ``localhost`` usually leads elsewhere, through a tunnel or into a container.
    """
    parts = _split(uri)
    return parts.hostname in _THIS_HOST and not (_is_by_ssh(uri) and parts.port is not None)


def may_be_tunnel(uri: str) -> bool:
    """Return whether ``uri`` names this host, but its connection may lead through a tunnel to another."""
    return _split(uri).hostname is not None and is_local(uri)


def _is_by_ssh(uri: str) -> bool:
    return _split(uri).scheme.partition("+")[2] in _BY_SSH


def is_monitor(uri: str) -> bool:
    """Return whether ``uri`` leads to the monitor of a QEMU without libvirt (see docs/qmp.md)."""
    return uri.partition(":")[0].lower() in ("qmp", "qmp+tcp")


def is_session(uri: str) -> bool:
    """Return whether ``uri`` leads to the libvirt of one user."""
    return _split(uri).path == "/session"


def host_of(uri: str) -> str:
    """Return the name of the host in ``uri``, as the user wrote it."""
    return _host(_split(uri)) or "localhost"


def place_of(uri: str) -> tuple[str, str, int]:
    """Return the transport of a remote ``uri``, its host and its port, libvirt's own by default."""
    parts = _split(uri)
    transport = parts.scheme.partition("+")[2] or "tls"
    return transport, host_of(uri), parts.port or _PORTS.get(transport, _PORTS["tls"])


def ssh_target(uri: str) -> SshTarget | None:
    """Return the host of ``uri`` as ``ssh`` is told of it; None if the URI names another way.

    The parameters are those that libvirt passes to ssh: https://libvirt.org/uri.html#ssh-transport.
    """
    parts = _split(uri)
    if not _is_by_ssh(uri) or parts.hostname is None:
        return None
    given = {name: values[0] for name, values in parse_qs(parts.query).items()}
    options = [] if parts.port is None else [f"-p{parts.port}"]
    options += [f"-i{given['keyfile']}"] if "keyfile" in given else []
    options += ["-oStrictHostKeyChecking=no"] if given.get("no_verify") == "1" else []
    user = "" if parts.username is None else f"{unquote(parts.username)}@"
    if f"{user}{_host(parts)}".startswith("-"):
        raise UsageError(f"invalid URI '{uri}': ssh would read the host as an option", advice=_ADVICE)
    return SshTarget(f"{user}{_host(parts)}", tuple(options), given.get("command", "ssh"))


def is_embedded(uri: str) -> bool:
    """Return whether ``uri`` runs the driver inside this process instead of a daemon."""
    return _split(uri).path == "/embed"


def is_in_process(uri: str) -> bool:
    """Return whether only this process can reach the domains behind ``uri``: its driver has no daemon."""
    return is_embedded(uri) or _split(uri).scheme == "test"


def state_directory(uri: str) -> Path:
    """Return the directory with the runtime directories of the domains of ``uri`` (QEMU's ``libDir``)."""
    parts = _split(uri)
    if is_embedded(uri):
        return Path(parse_qs(parts.query)["root"][0]) / "lib" / "qemu"
    if is_session(uri):
        return _config_home() / "libvirt" / "qemu" / "lib"
    return Path("/var/lib/libvirt/qemu")


def log_directory(uri: str) -> Path:
    """Return where the QEMU driver behind ``uri`` keeps a log of each domain."""
    parts = _split(uri)
    if is_embedded(uri):
        return Path(parse_qs(parts.query)["root"][0]) / "log" / "qemu"
    if is_session(uri):
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return cache / "libvirt" / "qemu" / "log"
    return Path("/var/log/libvirt/qemu")


def configuration_directory(uri: str) -> Path:
    """Where the QEMU driver behind ``uri`` has its ``qemu.conf``."""
    parts = _split(uri)
    if is_embedded(uri):
        return Path(parse_qs(parts.query)["root"][0]) / "etc"
    return _config_home() / "libvirt" if is_session(uri) else Path("/etc/libvirt")


def _config_home() -> Path:
    """Return the user's directory for configuration, by the XDG base directory specification."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")


def _split(uri: str) -> SplitResult:
    """Return the parts of ``uri``. Raises UsageError."""
    try:
        parts = urlsplit(uri)
        _ = parts.port
    except ValueError as error:
        why = str(error)
        raise UsageError(f"invalid URI '{uri}': {why[:1].lower()}{why[1:]}", advice=_ADVICE) from error
    return parts


def _host(parts: SplitResult) -> str:
    """Return the host as the user wrote it: aliases of ssh may have capital letters."""
    place = parts.netloc.rpartition("@")[2]
    return place[1:].partition("]")[0] if place.startswith("[") else place.partition(":")[0]
