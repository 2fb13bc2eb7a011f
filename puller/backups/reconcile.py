"""Removal of what earlier runs left behind, and of checkpoints that a committed point makes superfluous.

Only objects with this repository's id in their names are touched.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from puller.backups.bases.history import History
from puller.errors import HypervisorError
from puller.events import Notice, Observer
from puller.hypervisor import secret
from puller.hypervisor.domain import checkpoint as checkpoints
from puller.hypervisor.domain.checkpoint import THIRD_PARTIES, Checkpoint
from puller.hypervisor.domain.domain import Domain
from puller.hypervisor.guest import quiesce
from puller.hypervisor.job import openjob
from puller.hypervisor.job.strays import find_strays, remove_stray
from puller.repository.points import Point
from puller.repository.repository import Repository

_LOOK_BACK = 8
"""Points that are searched for a checkpoint: those of raw disks have none."""


def reconcile(
    domain: Domain, repository: Repository, history: History, scratch: Iterable[Path], observer: Observer
) -> None:
    """End our stale job, delete our files in the ``scratch`` directories and our checkpoints without a point.

    The caller holds the domain's lock, so no living run of this host owns what is found. Raises
    JobRunning if the open job is not ours, Locked if a living run has its locks in another directory,
    StoreError, HypervisorError.
    """
    tidy(domain, repository.id, scratch, observer)
    if domain.is_active():  # libvirt deletes and redefines no checkpoint of a domain that is shut off
        _delete_orphans(domain, repository, history, observer)
        _recover(domain, repository, history, observer)


def tidy(domain: Domain, owner: str, scratch: Iterable[Path], observer: Observer) -> None:
    """Undo what dead runs of the repository with the id ``owner`` and dead freezes left of jobs.

    See ``reconcile``.
    """
    if quiesce.thaw_left_over(domain):
        observer(Notice(domain.name, "thawed file systems that an earlier run had left frozen"))
    if openjob.end_stale(domain, owner):
        observer(Notice(domain.name, "ended a backup job that an earlier run had left open"))
    for each in dict.fromkeys((owner, THIRD_PARTIES)):
        for folder in scratch:
            for path in openjob.sweep_scratch(domain, folder, each):
                observer(Notice(domain.name, f"deleted scratch file {path} of an earlier run"))
        for usage in secret.sweep_secrets(domain, each):
            observer(Notice(domain.name, f"removed libvirt's secret {usage} of an earlier run"))


def _delete_orphans(domain: Domain, repository: Repository, history: History, observer: Observer) -> None:
    for checkpoint in _ours(domain, repository):
        if not history.holds(checkpoint.name):
            checkpoints.delete(domain, checkpoint.name)
            observer(Notice(domain.name, f"deleted checkpoint {checkpoint.name}: it has no restore point"))


def _recover(domain: Domain, repository: Repository, history: History, observer: Observer) -> None:
    """Restore libvirt's records of checkpoints whose bitmaps still exist; remove unused bitmaps.

    Records get lost without their bitmaps when a domain has moved to another host, was undefined and
    defined again, or is transient and was restarted.
    """
    known = {item.name for item in checkpoints.list_checkpoints(domain)}
    strays = find_strays(domain, repository.id)
    newest = islice(history, _LOOK_BACK)
    latest = [point for point in newest if point.checkpoint and history.holds(point.checkpoint)]
    for point in latest:
        # The newest one's bitmaps may be only in QEMU's memory; those of others have to be in the images.
        name = str(point.checkpoint)
        if name not in known and (point is latest[0] or name in strays) and _redefine(domain, point):
            known.add(name)
            observer(Notice(domain.name, f"restored libvirt's lost record of checkpoint {name}"))
    for name in strays.keys() - known:
        _remove_stray(domain, name, strays[name], observer)


def _redefine(domain: Domain, point: Point) -> bool:
    """Return whether libvirt now has the point's checkpoint, with a usable bitmap."""
    try:
        return checkpoints.redefine(domain, str(point.checkpoint), point.checkpoint_xml or "<none/>")
    except HypervisorError:
        return False  # then the checkpoint is lost like its bitmaps: the disks are compared instead


def _remove_stray(domain: Domain, name: str, targets: list[str], observer: Observer) -> None:
    try:
        removed = remove_stray(domain, name, targets)
    except HypervisorError as error:
        where = ", ".join(targets)
        observer(Notice(domain.name, f"cannot remove an unused dirty bitmap from {where}: {error.message}"))
        return
    if removed:  # else the image lists bitmaps that were removed since QEMU opened it
        where = ", ".join(removed)
        text = f"removed dirty bitmap {name} from {where}: its checkpoint no longer exists"
        observer(Notice(domain.name, text))


def _ours(domain: Domain, repository: Repository) -> list[Checkpoint]:
    found = checkpoints.list_checkpoints(domain)
    return [item for item in found if checkpoints.point_of(item.name, repository.id) is not None]


def retire(domain: Domain, repository: Repository, newest: str) -> None:
    """Delete our checkpoints that ``newest``, now committed, makes superfluous.

    A checkpoint stays if it tracks a disk that the newer ones do not: that disk was omitted from the last
    points and stays incremental by it.
    """
    present = {disk.target for disk in domain.disks()}
    covered: set[str] = set()
    for checkpoint in reversed(_ours(domain, repository)):
        if checkpoint.name != newest and checkpoint.disks & present <= covered:
            checkpoints.delete(domain, checkpoint.name)
        covered |= checkpoints.dirty_bytes(domain, checkpoint.name).keys()
