"""How a job backs up several domains at once: in threads of its process, or each in a process of its own.

All threads of a process share the interpreter's lock, so it keeps only some cores busy. Processes cost memory
and a start each (docs/decisions.md, "Processes for domains").
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from puller import api
from puller.cancelling import CancelScope
from puller.errors import UsageError
from puller.events import Observer
from puller.hypervisor.uri import is_in_process
from puller.jobs.batch import Take
from puller.repository.points import Point
from puller.repository.repository import Repository
from puller.store.location import parse

CORES = 4
"""Cores that one process keeps busy. With more, a process for each domain is faster."""


def is_faster_in_processes(cores: int, together: int) -> bool:
    """Return whether ``together`` domains at once are backed up faster by as many processes."""
    return together > 1 and cores > CORES


def can_leave(repository: Repository, connect: str) -> bool:
    """Return whether another process can open the store and reach libvirt."""
    try:
        parse(repository.store.url)
    except UsageError:  # a store that only this process has
        return False
    return not is_in_process(connect)


@contextmanager
def taking(
    repository: Repository, connect: str, choices: Mapping[str, Any], scope: CancelScope, together: int
) -> Iterator[Take]:
    """Yield what backs up one domain, and is called by ``together`` threads at once.

    ``choices`` are keywords of ``puller.backup``. Waits belong to ``scope``.
    """
    cores = len(os.sched_getaffinity(0))
    if is_faster_in_processes(cores, together) and can_leave(repository, connect):
        from puller.jobs.worker import Opening
        from puller.jobs.workers import Workers

        with Workers(Opening.of(repository, connect, choices), scope) as workers:
            yield workers.take
        return
    own = repository.within(scope)

    def take(domain: str, observer: Observer) -> Point:
        return api.backup(own, domain, connect=connect, observer=observer, **choices)

    yield take
