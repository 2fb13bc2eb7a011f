"""The file systems of a point, checked where its machine cannot be started.

libguestfs's appliance does it, on overlays, so the point stays as it is. A backup of a running guest is like
its disk after a power cut: each file system is mounted first, which replays its journal, and then checked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from puller.errors import DamagedData
from puller.events import Observer, Step
from puller.recovery.files.appliance import WALK, Appliance, Refusal
from puller.recovery.files.opening import attached
from puller.repository.points import Point
from puller.repository.repository import Repository

_GROUPS = {"xfs": "xfs", "btrfs": "btrfs", "ntfs": "ntfs3g"}
"""libguestfs's groups of what not every appliance has; see guestfs(3), "AVAILABILITY"."""

_ENCRYPTED = ("crypto_LUKS", "BitLocker")
_WITHOUT_FILES = ("swap", "unknown", "", *_ENCRYPTED)


@dataclass(frozen=True, slots=True)
class Filesystem:
    """One file system: its device, its kind, and what is wrong with it; empty if it is sound."""

    device: str
    kind: str
    fault: str = ""
    is_checked: bool = True


@dataclass(frozen=True, slots=True)
class Examined:
    """All file systems of a point, and the operating systems on them, by name."""

    filesystems: tuple[Filesystem, ...]
    systems: tuple[str, ...]

    @property
    def fault(self) -> str:
        """What speaks against the machine; empty if its file systems are sound and it has a system."""
        damaged = [item.device for item in self.filesystems if item.fault]
        if damaged:
            return f"damaged file systems: {', '.join(damaged)}"
        return "" if self.systems else "libguestfs finds no operating system that it knows"

    @property
    def encrypted(self) -> tuple[str, ...]:
        """The encrypted devices, if nothing can be said about the machine because of them."""
        if self.systems or any(item.fault for item in self.filesystems):
            return ()
        return tuple(item.device for item in self.filesystems if item.kind in _ENCRYPTED)

    @property
    def log(self) -> str:
        """A line for each."""
        lines = [f"{item.device} ({item.kind}): {_finding(item)}" for item in self.filesystems]
        return "\n".join([*lines, *(f"operating system: {name}" for name in self.systems)])


def _finding(item: Filesystem) -> str:
    return (item.fault or "sound") if item.is_checked else "not checked"


def examine(repository: Repository, point: Point, observer: Observer) -> Examined:
    """Check all file systems of ``point``. Raises ApplianceFailed, DamagedData, StoreError."""
    with attached(repository, point, (), observer) as (appliance, names):
        observer(Step(point.point, "check file systems"))
        try:
            found = appliance.call("list_filesystems")
            roots = appliance.call("inspect_os")
            systems = tuple(appliance.call("inspect_get_product_name", root) for root in roots)
        except Refusal as error:
            raise DamagedData(f"cannot look for file systems of point {point.point}: {error}") from error
        return Examined(tuple(_check_all(appliance, found, names.outside)), systems)


def _check_all(appliance: Appliance, found: dict[str, str], name_of: Any) -> Iterator[Filesystem]:
    for device, kind in sorted(found.items()):
        is_checked = kind not in _WITHOUT_FILES and _is_supported(appliance, kind)
        fault = _fault_of(appliance, device, kind) if is_checked else ""
        yield Filesystem(name_of(device), kind or "unknown", fault, is_checked=is_checked)


def _is_supported(appliance: Appliance, kind: str) -> bool:
    """Return whether the appliance has what this kind of file system needs."""
    return kind not in _GROUPS or bool(appliance.call("feature_available", [_GROUPS[kind]]))


def _fault_of(appliance: Appliance, device: str, kind: str) -> str:
    """Return what is wrong with a file system; empty if it is sound."""
    try:
        appliance.call("mount", device, "/")
        appliance.call("umount_all")
        if kind in ("ext2", "ext3", "ext4"):
            appliance.call("e2fsck", device, limit=WALK, correct=True)
        elif kind == "xfs":
            if appliance.call("xfs_repair", device, limit=WALK, nomodify=True):
                return "xfs_repair -n finds damage"
        elif kind == "btrfs":
            appliance.call("btrfs_fsck", device, limit=WALK)
    except Refusal as error:
        return " ".join(str(error).split())[:200] or "it cannot be mounted"
    return ""
