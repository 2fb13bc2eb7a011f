"""Which file systems a point has, and which of them are shown where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from puller.errors import NoFilesystem
from puller.events import Notice, Observer
from puller.recovery.files.appliance import Appliance, Refusal
from puller.recovery.files.devices import DeviceNames

_NO_FILES = frozenset({"swap", "unknown", ""})
_LUKS = "crypto_LUKS"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to show: ``filesystem`` alone, or what inspection finds; LUKS is opened with ``passphrases``."""

    filesystem: str | None = None
    passphrases: tuple[str, ...] = ()


class FilesystemFinder:
    """Mounts the file systems of the point ``point`` in ``appliance``, read-only."""

    def __init__(self, appliance: Appliance, names: DeviceNames, point: str, observer: Observer) -> None:
        self._appliance = appliance
        self._names = names
        self._point = point
        self._observer = observer

    def mount(self, wanted: Wanted) -> dict[str, str]:
        """Mount what is wanted, and return the devices by their place. Raises NoFilesystem."""
        closed = self._unlock(wanted.passphrases) if wanted.passphrases else []
        if wanted.filesystem is not None:
            places = {"/": self._names.inside(wanted.filesystem)}
        else:
            places = self._inspect(closed)
        for place in sorted(places, key=len):
            self._mount(place, places[place])
        return {place: self._names.outside(device) for place, device in places.items()}

    def _mount(self, place: str, device: str) -> None:
        try:
            self._appliance.call("mount_ro", device, place)
        except Refusal as error:
            text = f"cannot mount {self._names.outside(device)} of point {self._point}: {error}"
            if place == "/":
                raise NoFilesystem(text, advice=self._choice(self._list())) from error
            self._observer(Notice(self._point, f"{place} is missing: {text}"))

    def _inspect(self, closed: Sequence[str]) -> dict[str, str]:
        """The places and devices that the guest's operating system has, or the only file system as /."""
        roots = self._ask("inspect_os")
        if len(roots) == 1:
            return dict(self._ask("inspect_get_mountpoints", roots[0]))
        if roots:
            raise NoFilesystem(
                f"point {self._point} has several operating systems",
                advice=self._choice({root: self._ask("inspect_get_product_name", root) for root in roots}),
            )
        found = self._list()
        if len(found) == 1:
            return {"/": next(iter(found))}
        raise self._nothing(found, closed or self._encrypted())

    def _nothing(self, found: Mapping[str, str], closed: Sequence[str]) -> NoFilesystem:
        if found:
            text = f"point {self._point} has no operating system that libguestfs knows"
            return NoFilesystem(text, advice=self._choice(found))
        if closed:
            names = ", ".join(map(self._names.outside, closed))
            return NoFilesystem(
                f"the file systems of point {self._point} are encrypted (LUKS): {names}",
                advice="Pass the file with their passphrase as --luks-passphrase-file.",
            )
        return NoFilesystem(
            f"point {self._point} has no file system that libguestfs knows",
            advice="Restore the disks with 'puller restore' and look at them with other tools.",
        )

    def _list(self) -> dict[str, str]:
        """The types of all file systems, by device."""
        found = self._ask("list_filesystems")
        return {device: kind for device, kind in found.items() if kind not in _NO_FILES and kind != _LUKS}

    def _choice(self, found: Mapping[str, str]) -> str:
        if not found:
            return "List the disks of the point with 'puller show'."
        names = ", ".join(f"{self._names.outside(device)} ({kind})" for device, kind in found.items())
        return f"Choose a file system with --filesystem: {names}."

    def _unlock(self, passphrases: Sequence[str]) -> list[str]:
        """Open all LUKS volumes that can be; return those that stay closed. One can lie within another."""
        seen: set[str] = set()
        closed: list[str] = []
        while fresh := [device for device in self._encrypted() if device not in seen]:
            seen.update(fresh)
            closed += [device for device in fresh if not self._open(device, passphrases)]
            self._ask("lvm_scan", True)
        for device in closed:
            text = f"{self._names.outside(device)} is encrypted (LUKS), and no passphrase opens it"
            self._observer(Notice(self._point, text))
        return closed

    def _open(self, device: str, passphrases: Sequence[str]) -> bool:
        """Open a volume under the name that guests' tables of file systems often have for it.

        Not read-only, or else no journal could be replayed: it is the overlay that is written.
        """
        name = f"luks-{self._ask('luks_uuid', device)}"
        for passphrase in passphrases:
            try:
                self._appliance.call("cryptsetup_open", device, passphrase, name)
                return True
            except Refusal:  # the wrong one
                continue
        return False

    def _encrypted(self) -> list[str]:
        devices = [*self._ask("list_devices"), *self._ask("list_partitions"), *self._ask("lvs")]
        return [device for device in devices if self._kind(device) == _LUKS]

    def _kind(self, device: str) -> str:
        try:
            return str(self._appliance.call("vfs_type", device))
        except Refusal:  # an extended partition has no content of its own
            return ""

    def _ask(self, method: str, *arguments: object) -> Any:
        try:
            return self._appliance.call(method, *arguments)
        except Refusal as error:
            raise NoFilesystem(f"cannot look for file systems of point {self._point}: {error}") from error
