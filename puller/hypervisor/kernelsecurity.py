"""AppArmor and SELinux, as the kernel of this host shows them, and what they keep QEMU from.

libvirt itself gives each scratch file to the confined QEMU. What it cannot give is a folder that the policy
withholds as a whole.
"""

from __future__ import annotations

import os
from pathlib import Path

_RESTRICTED = (
    "/bin/",
    "/etc/",
    "/lib",
    "/lost+found/",
    "/proc/",
    "/sbin/",
    "/selinux/",
    "/sys/",
    "/usr/bin/",
    "/usr/lib",
    "/usr/sbin/",
    "/usr/share/",
    "/usr/local/bin/",
    "/usr/local/etc/",
    "/usr/local/lib",
    "/usr/local/sbin/",
    "/boot/",
)
"""Where virt-aa-helper never lets a guest write (``valid_path`` in libvirt's ``virt-aa-helper.c``)."""

_HOMES = frozenset({"user_home_t", "user_home_dir_t", "admin_home_t", "default_t", "unlabeled_t"})
"""Types of folders that the targeted policy does not let ``svirt_t`` into."""


def apparmor_is_on(root: Path = Path("/")) -> bool:
    """Whether the kernel enforces AppArmor; ``root`` is where /sys is."""
    return _read(root / "sys/module/apparmor/parameters/enabled") == "Y"


def selinux_enforces(root: Path = Path("/")) -> bool:
    """Whether SELinux is on and enforcing; ``root`` is where /sys is."""
    return _read(root / "sys/fs/selinux/enforce") == "1"


def apparmor_withholds(folder: Path) -> bool:
    """Whether virt-aa-helper refuses to give a guest a file in ``folder``."""
    return f"{folder.absolute()}/".startswith(_RESTRICTED)


def selinux_type(folder: Path) -> str | None:
    """The type in the label of ``folder``, such as ``virt_image_t``; None if it has no label."""
    try:
        label = os.getxattr(folder, "security.selinux").decode("ascii", "replace").rstrip("\0")
    except OSError:
        return None
    return type_of(label)


def type_of(label: str) -> str | None:
    """``system_u:object_r:virt_image_t:s0`` -> ``virt_image_t``."""
    parts = label.split(":")
    return parts[2] if len(parts) > 2 else None


def selinux_withholds(kind: str | None) -> bool:
    """Whether a confined QEMU may not enter a folder of this type."""
    return kind in _HOMES


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
