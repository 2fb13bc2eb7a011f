"""The host: versions of libvirt, QEMU and libnbd."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from puller.diagnosis.finding import Answer, Finding, ask, fail, ok
from puller.hypervisor.connection import Host, Version
from puller.nbd import library

LEAST_LIBVIRT: Version = (6, 10, 0)
"""The first that reports an unusable checkpoint as such (``VIR_ERR_CHECKPOINT_INCONSISTENT``).

From 7.6 on it backs up incrementally without being switched on. Each domain is asked for that."""

LEAST_QEMU: Version = (4, 2, 0)
"""The first with ``blockdev-backup`` and bitmaps as libvirt's backups need them."""


def examine(host: Host) -> Iterator[Finding]:
    """Check what all domains need."""
    yield ask("libvirt", host.uri, partial(_libvirt, host))
    yield ask("qemu", host.uri, partial(_qemu, host))
    yield ask("libnbd", host.uri, libnbd)


def _libvirt(host: Host) -> Answer:
    return _at_least("libvirt", host.libvirt_version, LEAST_LIBVIRT)


def _qemu(host: Host) -> Answer:
    return _at_least("QEMU", host.qemu_version, LEAST_QEMU)


def _at_least(name: str, found: Version, least: Version) -> Answer:
    text = f"{name} {_dotted(found)}"
    if found < least:
        return fail(f"{text} is too old for puller", f"Upgrade {name} to {_dotted(least)} or later.")
    return ok(text)


def libnbd() -> Answer:
    """Tell the version of libnbd."""
    extents = "64-bit" if library.has_long_extents() else "32-bit"
    return ok(f"libnbd {library.version()}, {extents} extents")


def _dotted(version: Version) -> str:
    return ".".join(map(str, version))
