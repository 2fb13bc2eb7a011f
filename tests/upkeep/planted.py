"""Bugs put into the protocol on purpose: each one a mistake that somebody might make."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime
from weakref import WeakKeyDictionary

import pytest

from puller.backups.bases.history import History
from puller.repository.format.index import IndexedPack
from puller.repository.points import Point, time_of
from puller.repository.records.kept import Keeps
from puller.repository.writing.claims import Claims
from puller.repository.writing.packing import OpenPack
from puller.repository.writing.pending import PendingPoints
from puller.repository.writing.run import Run
from puller.upkeep.retention.policy import Decision, Policy, decide

Plant = Callable[[pytest.MonkeyPatch], None]


def commit_before_flush(patch: pytest.MonkeyPatch) -> None:
    """The point is put while its packs are still on their way."""
    late: WeakKeyDictionary[Run, list[tuple[str, bytes]]] = WeakKeyDictionary()
    commit = Run.commit

    def upload(run: Run, pack: OpenPack) -> None:
        footer = pack.footer()
        content = bytes(pack.body(run._keys, footer))
        pack.buffer.release()
        late.setdefault(run, []).append((pack.kind.object_name(pack.pack_id), content))
        run._note(IndexedPack(pack.kind, pack.pack_id, len(content), footer))

    def commit_first(run: Run, point: Point) -> Point:
        committed = commit(run, point)
        for name, content in late.pop(run, []):
            run._store.put_new(name, content)
        return committed

    patch.setattr(Run, "_upload_pack", upload)
    patch.setattr(Run, "commit", commit_first)


def prune_ignores_writers(patch: pytest.MonkeyPatch) -> None:
    """Prune does not look for points that are about to be committed."""
    patch.setattr(PendingPoints, "listed", lambda _: iter(()))


def dedup_against_condemned(patch: pytest.MonkeyPatch) -> None:
    """Runs refer to what the index offers, condemned or not, and do not look again before the commit."""
    patch.setattr("puller.repository.writing.claims._excluded", lambda _: set())
    patch.setattr(Claims, "admit", lambda _, packs, slots: packs)


def retention_ignores_the_host(patch: pytest.MonkeyPatch) -> None:
    """What a copy of a machine has taken elsewhere pushes out what the original has."""
    real = decide

    def together(points: Iterable[Point], policy: Policy) -> tuple[Decision, ...]:
        return real(points, replace(policy, across_hosts=True))

    patch.setattr("puller.upkeep.pruning.prune.decide", together)


def the_newest_is_whosever_ran_last(patch: pytest.MonkeyPatch) -> None:
    """``DOMAIN@latest`` means the point of a copy on another host without a word."""
    patch.setattr("puller.repository.points._require_one_host", lambda domain, points: None)


def a_name_dates_the_next_point(patch: pytest.MonkeyPatch) -> None:
    """The time of the newest point is taken from an object's name, whoever put the object."""

    def newest(history: History, now: datetime, _host: str) -> datetime:
        return max(map(time_of, history.ids), default=now)

    patch.setattr("puller.backups.clock._newest", newest)


def prune_ignores_keeps(patch: pytest.MonkeyPatch) -> None:
    """Prune goes by the rules alone."""
    patch.setattr("puller.upkeep.pruning.prune._Prune._mark_held", lambda *_: {})


def release_ends_keeps_of_all(patch: pytest.MonkeyPatch) -> None:
    """Releasing one point of a domain ends the keeps of all points of it."""
    real = Keeps.listed
    patch.setattr(Keeps, "listed", lambda keeps, *name: real(keeps, *name[:1]))


PLANTED: dict[str, Plant] = {
    "commit before flush": commit_before_flush,
    "prune ignores in-flight writers": prune_ignores_writers,
    "dedup against condemned packs": dedup_against_condemned,
    "retention ignores the host": retention_ignores_the_host,
    "the newest is whosever ran last": the_newest_is_whosever_ran_last,
    "a name dates the next point": a_name_dates_the_next_point,
    "prune ignores keeps": prune_ignores_keeps,
    "releasing a point releases its domain": release_ends_keeps_of_all,
}
