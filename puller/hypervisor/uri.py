"""What a libvirt URI tells without asking libvirt: which host, and where QEMU's driver keeps its state.

See https://libvirt.org/uri.html and https://libvirt.org/drvqemu.html (URIs and embedded driver).
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

_THIS_HOST = frozenset({None, "localhost", "127.0.0.1", "::1"})


def is_local(uri: str) -> bool:
    """Whether ``uri`` leads to libvirt on this host."""
    return urlsplit(uri).hostname in _THIS_HOST


def is_embedded(uri: str) -> bool:
    """Whether ``uri`` runs the driver inside this process rather than asking a daemon."""
    return urlsplit(uri).path == "/embed"


def state_directory(uri: str) -> Path:
    """Where the QEMU driver behind ``uri`` keeps the runtime folders of its domains (its ``libDir``)."""
    parts = urlsplit(uri)
    if is_embedded(uri):
        return Path(parse_qs(parts.query)["root"][0]) / "lib" / "qemu"
    if parts.path == "/session":
        return _config_home() / "libvirt" / "qemu" / "lib"
    return Path("/var/lib/libvirt/qemu")


def configuration_directory(uri: str) -> Path:
    """Where the QEMU driver behind ``uri`` has its ``qemu.conf``."""
    parts = urlsplit(uri)
    if is_embedded(uri):
        return Path(parse_qs(parts.query)["root"][0]) / "etc"
    return _config_home() / "libvirt" if parts.path == "/session" else Path("/etc/libvirt")


def _config_home() -> Path:
    """The user's folder for configuration, by the XDG base directory specification."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
