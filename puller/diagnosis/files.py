"""What looking at files in points needs: libguestfs and a kernel for its appliance."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from puller.diagnosis.finding import Answer, Finding, ask, ok, warn
from puller.errors import ApplianceFailed
from puller.recovery.files.appliance import require_installed

SUBJECT = "files"

_FIXED = "LIBGUESTFS_PATH"
_KERNEL = "SUPERMIN_KERNEL"
"""Variables of libguestfs and supermin that name another appliance, or a kernel for it."""

_IMAGES = ("boot/vmlinuz-*", "lib/modules/*/vmlinuz", "usr/lib/modules/*/vmlinuz")


def examine() -> Iterator[Finding]:
    """Check what the commands ``ls``, ``cat``, ``cp``, ``find``, ``versions`` and ``mount`` need."""
    yield ask("libguestfs", SUBJECT, _libguestfs)
    yield ask("appliance-kernel", SUBJECT, kernel)


def _libguestfs() -> Answer:
    try:
        require_installed()
    except ApplianceFailed as error:
        return warn(f"{error.message}; files of points cannot be shown", error.advice)
    return ok("libguestfs is installed")


def kernel(root: Path = Path("/")) -> Answer:
    """Look for a kernel below ``root`` as supermin does, which puts the appliance together."""
    if _FIXED in os.environ or _KERNEL in os.environ:
        named = next(name for name in (_FIXED, _KERNEL) if name in os.environ)
        return ok(f"{named} names {os.environ[named]}")
    images = sorted(path for pattern in _IMAGES for path in root.glob(pattern) if path.is_file())
    if not images:
        return warn(
            "no kernel is installed for libguestfs's appliance",
            "Install one: package linux-image-amd64 on Debian, linux-image-virtual on Ubuntu.",
        )
    readable = [path for path in images if os.access(path, os.R_OK)]
    if not readable:
        return warn(
            f"this user cannot read {images[-1]}, which libguestfs's appliance needs",
            f"Run 'sudo chmod +r {images[-1]}', or run the commands for files as root.",
        )
    return ok(f"the appliance's kernel is {readable[-1]}")
