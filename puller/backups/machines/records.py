"""Checkpoints of libvirt that no restore point needs, and records of checkpoints that libvirt has lost.

Records get lost without their bitmaps when a domain has moved to another host, was undefined and defined
again, or is transient and was restarted.
"""

from __future__ import annotations

from itertools import islice

from puller.backups.bases.history import History
from puller.backups.machines.machine import Tell
from puller.errors import HypervisorError
from puller.hypervisor.domain import checkpoint as checkpoints
from puller.hypervisor.domain.domain import Domain
from puller.hypervisor.job.strays import find_strays, remove_stray
from puller.repository.points import Point

_LOOK_BACK = 8
"""Points that are searched for a checkpoint: those of raw disks have none."""


def delete_orphans(domain: Domain, repository_id: str, history: History, tell: Tell) -> None:
    """Delete our checkpoints whose point does not exist."""
    for checkpoint in checkpoints.list_checkpoints(domain):
        name = checkpoint.name
        if checkpoints.point_of(name, repository_id) is not None and not history.holds(name):
            checkpoints.delete(domain, name)
            tell(f"deleted checkpoint {name}: it has no restore point")


def recover(domain: Domain, repository_id: str, history: History, tell: Tell) -> None:
    """Restore libvirt's records of checkpoints whose bitmaps still exist; remove unused bitmaps."""
    known = {item.name for item in checkpoints.list_checkpoints(domain)}
    strays = find_strays(domain, repository_id)
    newest = islice(history, _LOOK_BACK)
    latest = [point for point in newest if point.checkpoint and history.holds(point.checkpoint)]
    for point in latest:
        # The newest one's bitmaps may be only in QEMU's memory; those of others have to be in the images.
        name = str(point.checkpoint)
        if name not in known and (point is latest[0] or name in strays) and _redefine(domain, point):
            known.add(name)
            tell(f"restored libvirt's lost record of checkpoint {name}")
    for name in strays.keys() - known:
        _remove_stray(domain, name, strays[name], tell)


def _redefine(domain: Domain, point: Point) -> bool:
    """Return whether libvirt now has the point's checkpoint, with a usable bitmap."""
    try:
        return checkpoints.redefine(domain, str(point.checkpoint), point.checkpoint_xml or "<none/>")
    except HypervisorError:
        return False  # then the checkpoint is lost like its bitmaps: the disks are compared instead


def _remove_stray(domain: Domain, name: str, targets: list[str], tell: Tell) -> None:
    try:
        removed = remove_stray(domain, name, targets)
    except HypervisorError as error:
        where = ", ".join(targets)
        tell(f"cannot remove an unused dirty bitmap from {where}: {error.message}")
        return
    if removed:  # else the image lists bitmaps that were removed since QEMU opened it
        where = ", ".join(removed)
        tell(f"removed dirty bitmap {name} from {where}: its checkpoint no longer exists")
