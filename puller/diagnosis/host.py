"""The host: versions of libvirt, QEMU and libnbd."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from puller.diagnosis.finding import Answer, Finding, ask, fail, ok, warn
from puller.host.access import LOCAL, HostAccess
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
    if host.access is not LOCAL:
        yield ask("host-files", host.uri, partial(_files, host.access))


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


def _files(access: HostAccess) -> Answer:
    """Check what a backup uses of another host."""
    if not access.has_files:
        return warn(
            f"puller has no way to the files of host {access.name}: it does not read domains that are "
            "shut off, pushed images, firmware variables and TPM states",
            "Connect with qemu+ssh:// if they are needed.",
        )
    script = 'for tool do command -v "$tool" >/dev/null || printf "%s " "$tool"; done'
    found = access.run(["sh", "-c", script, "puller", *_TOOLS], _SECONDS).stdout.decode().split()
    if found:
        return fail(
            f"host {access.name} has no {', '.join(found)}",
            "Install the packages of these tools there: coreutils, util-linux, and QEMU's tools.",
        )
    return ok(f"host {access.name} answers by ssh, and has all tools")


_TOOLS = ("qemu-img", "qemu-nbd", "flock", "fallocate", "stat", "timeout", "truncate", "realpath")

_SECONDS = 30.0


def _dotted(version: Version) -> str:
    return ".".join(map(str, version))
