"""Removal of what earlier runs left behind, and of checkpoints that a committed point makes superfluous.

Only objects with this repository's id in their names are touched.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from puller.backups.bases.history import History
from puller.backups.machines.machine import Machine
from puller.events import Notice, Observer
from puller.hypervisor.domain.checkpoint import THIRD_PARTIES, Checkpoint, point_of
from puller.hypervisor.guest import quiesce
from puller.repository.repository import Repository


def reconcile(
    machine: Machine, repository: Repository, history: History, scratch: Iterable[Path], observer: Observer
) -> None:
    """End our stale job, delete our files in the ``scratch`` directories and our checkpoints without a point.

    The caller holds the domain's lock, so no living run of this host owns what is found. Raises
    JobRunning if the open job is not ours, Locked if a living run has its locks in another directory,
    StoreError, HypervisorError.
    """
    tidy(machine, repository.id, scratch, observer)
    machine.repair_checkpoints(repository.id, history, lambda text: observer(Notice(machine.name, text)))


def tidy(machine: Machine, owner: str, scratch: Iterable[Path], observer: Observer) -> None:
    """Undo what dead runs of the repository with the id ``owner`` and dead freezes left of jobs.

    See ``reconcile``.
    """

    def tell(text: str) -> None:
        observer(Notice(machine.name, text))

    if quiesce.thaw_left_over(machine.agent()):
        tell("thawed file systems that an earlier run had left frozen")
    if machine.end_stale(owner):
        tell("ended a backup job that an earlier run had left open")
    owners = tuple(dict.fromkeys((owner, THIRD_PARTIES)))
    for each in owners:
        for folder in scratch:
            for text in machine.sweep(folder, each):
                tell(text)
    for text in machine.sweep_secrets(owners):
        tell(text)


def retire(machine: Machine, repository: Repository, newest: str) -> None:
    """Delete our checkpoints that ``newest``, now committed, makes superfluous.

    A checkpoint stays if it tracks a disk that the newer ones do not: that disk was omitted from the last
    points and stays incremental by it.
    """
    present = {disk.target for disk in machine.disks()}
    covered: frozenset[str] = frozenset()
    # Two points may be of one second, by which some machines' checkpoints are ordered.
    oldest_first = sorted(_ours(machine, repository), key=lambda item: item.name == newest)
    for checkpoint in reversed(oldest_first):
        if checkpoint.name != newest and checkpoint.disks & present <= covered:
            machine.delete_checkpoint(checkpoint.name)
        covered |= machine.tracked(checkpoint.name)


def _ours(machine: Machine, repository: Repository) -> list[Checkpoint]:
    return [item for item in machine.checkpoints() if point_of(item.name, repository.id) is not None]
