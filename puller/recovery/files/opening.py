"""A point opened for looking at its files: served over NBD, attached to an appliance, mounted there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from puller.errors import ApplianceFailed
from puller.events import Notice, Observer, Step
from puller.recovery.files.appliance import Appliance, Drive, Refusal, require_installed
from puller.recovery.files.devices import DeviceNames
from puller.recovery.files.filesystems import FilesystemFinder, Wanted
from puller.recovery.files.tree import GuestTree
from puller.recovery.serving.server import Server, Service
from puller.repository.points import Point
from puller.repository.repository import Repository


@dataclass(frozen=True, slots=True)
class FilesRequest:
    """Which part of a point to look at.

    Attributes:
        disks: Targets of the only disks to attach. Empty: all.
        filesystem: The device of the only file system to mount. None: what the guest's system mounts.
        passphrases: Passphrases to try on LUKS volumes.
    """

    disks: tuple[str, ...] = ()
    filesystem: str | None = None
    passphrases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OpenedPoint:
    """The files of ``point``. ``filesystems`` are the mounted devices, by their place."""

    point: Point
    tree: GuestTree
    appliance: Appliance
    filesystems: Mapping[str, str]


@contextmanager
def attached(
    repository: Repository, point: Point, disks: Sequence[str], observer: Observer
) -> Iterator[tuple[Appliance, DeviceNames]]:
    """Yield an appliance with the ``disks`` of ``point``, or all, and the names of its devices.

    Raises NoSuchDisk, ApplianceFailed, and the errors of a server of points.
    """
    require_installed()
    observer(Step(point.point, "serve"))
    with (
        Server(repository, point, Service(disks=tuple(disks)), observer) as server,
        Appliance(repository.scope) as appliance,
    ):
        observer(Step(point.point, "start the appliance"))
        drives = [Drive(server.socket, item.disk) for item in server.exports if server.socket is not None]
        if not appliance.launch(drives):
            observer(Notice(point.point, "KVM fails on this host, so libguestfs's appliance runs without it"))
        yield appliance, _names(appliance, drives)


@contextmanager
def opened(
    repository: Repository, point: Point, request: FilesRequest, observer: Observer
) -> Iterator[OpenedPoint]:
    """Open ``point`` while the context lasts; nothing is written to it.

    Raises NoSuchDisk, ApplianceFailed, NoFilesystem, and the errors of a server of points.
    """
    with attached(repository, point, request.disks, observer) as (appliance, names):
        observer(Step(point.point, "find file systems"))
        finder = FilesystemFinder(appliance, names, point.point, observer)
        filesystems = finder.mount(Wanted(request.filesystem, request.passphrases))
        yield OpenedPoint(point, GuestTree(appliance, point.point, observer), appliance, filesystems)


def _names(appliance: Appliance, drives: Sequence[Drive]) -> DeviceNames:
    try:
        return DeviceNames([drive.export for drive in drives], appliance.call("list_devices"))
    except Refusal as error:
        raise ApplianceFailed(f"cannot list the devices of libguestfs's appliance: {error}") from error
