"""What earlier runs left behind, and what a committed point makes superfluous.

Only things that carry this repository's id in their names are touched.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from puller.events import Notice, Observer
from puller.hypervisor import checkpoint as checkpoints
from puller.hypervisor import openjob, quiesce
from puller.hypervisor.checkpoint import Checkpoint
from puller.hypervisor.domain import Domain
from puller.repository.repository import Repository


def reconcile(domain: Domain, repository: Repository, scratch: Iterable[Path], observer: Observer) -> None:
    """End our stale job, sweep our files in the ``scratch`` folders, delete our checkpoints without a point.

    The caller holds the domain's lock, so no living run of this host owns what is found. Raises
    JobRunning if the open job is somebody else's, StoreError, HypervisorError.
    """
    if quiesce.thaw_left_over(domain):
        observer(Notice(domain.name, "thawed file systems that an earlier run had left frozen"))
    if openjob.end_stale(domain, repository.id):
        observer(Notice(domain.name, "ended a backup job that an earlier run had left open"))
    for folder in scratch:
        for path in openjob.sweep_scratch(domain, folder, repository.id):
            observer(Notice(domain.name, f"deleted scratch file {path} of an earlier run"))
    _delete_orphans(domain, repository, observer)


def _delete_orphans(domain: Domain, repository: Repository, observer: Observer) -> None:
    ours = _ours(domain, repository)
    if not ours:
        return
    committed = {point_id for _, point_id in repository.points.names(domain.uuid)}
    for checkpoint in ours:
        if checkpoints.point_of(checkpoint.name, repository.id) not in committed:
            checkpoints.delete(domain, checkpoint.name)
            observer(Notice(domain.name, f"deleted checkpoint {checkpoint.name}: it has no restore point"))


def _ours(domain: Domain, repository: Repository) -> list[Checkpoint]:
    found = checkpoints.list_checkpoints(domain)
    return [item for item in found if checkpoints.point_of(item.name, repository.id) is not None]


def retire(domain: Domain, repository: Repository, newest: str) -> None:
    """Delete our checkpoints that ``newest``, now committed, makes superfluous.

    One that tracks a disk which the newer ones do not is kept: that disk was left out of the last
    points and stays incremental by it.
    """
    present = {disk.target for disk in domain.disks()}
    covered: set[str] = set()
    for checkpoint in reversed(_ours(domain, repository)):
        if checkpoint.name != newest and checkpoint.disks & present <= covered:
            checkpoints.delete(domain, checkpoint.name)
        covered |= checkpoints.dirty_bytes(domain, checkpoint.name).keys()
