"""Names of devices: puller says ``/dev/vda2`` where the disk ``vda`` is the appliance's ``/dev/sda``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence


class DeviceNames:
    """The appliance has the disk ``targets[n]`` as its device ``devices[n]``."""

    def __init__(self, targets: Sequence[str], devices: Sequence[str]) -> None:
        inside = [device.removeprefix("/dev/") for device in devices]
        self._inside = dict(zip(targets, inside, strict=True))
        self._outside = dict(zip(inside, targets, strict=True))

    def inside(self, name: str) -> str:
        """The appliance's name of ``name``, a user's. What is no disk's target is the appliance's already."""
        return _replaced(name, self._inside)

    def outside(self, name: str) -> str:
        """The user's name of ``name``, the appliance's."""
        return _replaced(name, self._outside)


def _replaced(name: str, names: Mapping[str, str]) -> str:
    """As Linux does, put a ``p`` between a disk whose name ends with a digit and the partition's number."""
    for known, other in names.items():
        number = f"{'p' if known[-1].isdigit() else ''}([0-9]+)"
        found = re.search(rf"(?<=/dev/){re.escape(known)}(?:{number})?(?=$|/)", name)
        if found:
            separator = "p" if found[1] and other[-1].isdigit() else ""
            return f"{name[: found.start()]}{other}{separator}{found[1] or ''}{name[found.end() :]}"
    return name
