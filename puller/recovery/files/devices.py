"""Names of devices: puller says ``/dev/vda2`` where the disk ``vda`` is the appliance's ``/dev/sda``."""

from __future__ import annotations

import re
from collections.abc import Sequence

_DEVICE = re.compile(r"(?<=/dev/)([a-z]+)(?=[0-9]|$|/)")


class DeviceNames:
    """The appliance has the disk ``targets[n]`` as its device ``devices[n]``."""

    def __init__(self, targets: Sequence[str], devices: Sequence[str]) -> None:
        pairs = [
            (target, device.removeprefix("/dev/")) for target, device in zip(targets, devices, strict=True)
        ]
        self._inside = dict(pairs)
        self._outside = {device: target for target, device in pairs}

    def inside(self, name: str) -> str:
        """The appliance's name of ``name``, a user's. What is no disk's target is the appliance's already."""
        return _replaced(name, self._inside)

    def outside(self, name: str) -> str:
        """The user's name of ``name``, the appliance's."""
        return _replaced(name, self._outside)


def _replaced(name: str, names: dict[str, str]) -> str:
    return _DEVICE.sub(lambda found: names.get(found[1], found[1]), name, count=1)
