"""Prune: retention, then removal of what no restore point reaches, beside running backups.

Two prunes are needed to remove something: one condemns it, a later one, when the grace time has passed,
makes that final, looks once more at what is reached, and removes it. docs/format.md says why this is safe
("Why prune is safe"), whatever dies when, and whoever backs up meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from puller.errors import UsageError
from puller.events import Notice, Observer, Step, ignore
from puller.repository.collecting.disposal import Disposal
from puller.repository.collecting.lease import Lease
from puller.repository.points import AHEAD, Point
from puller.repository.records.condemned import (
    ALL,
    KEPT,
    Condemnations,
    CondemnedSlots,
    Record,
    slots_in,
    union,
)
from puller.repository.records.damaged import since
from puller.repository.records.kept import Keep, Name, point_of
from puller.repository.records.verified import Proof, outlives, tidy
from puller.repository.repository import Repository
from puller.store.probe import UNCONDITIONAL
from puller.upkeep.reachability import Reachability
from puller.upkeep.reclaim import Reclaim
from puller.upkeep.retention import Decision, Policy, decide
from puller.upkeep.survey import Survey

NOT_LET_GO = "the store does not let it be deleted"
"""Why a point stays that no rule keeps."""

GRACE = timedelta(days=1)
"""Default grace time. A run that takes five minutes less is never refused because of a prune."""


@dataclass(frozen=True, slots=True)
class PruneReport:
    """What a prune did.

    Attributes:
        kept: Ids of the points that stay.
        removed: Ids of the points that were deleted.
        packs_condemned: Packs of which something was condemned now; it waits for the grace time.
        packs_deleted: Packs that were deleted.
        packs_compacted: Packs that were rewritten without what no point needs.
        bytes_freed: The size of the deleted packs, and what rewriting others saved.
        decisions: The decision for each point, with its reasons.
        held: Those of ``kept`` that no rule keeps, but a keep.
    """

    kept: tuple[str, ...]
    removed: tuple[str, ...]
    packs_condemned: int
    packs_deleted: int
    packs_compacted: int
    bytes_freed: int
    decisions: tuple[Decision, ...]
    held: tuple[str, ...] = ()


def preview(repository: Repository, policy: Policy) -> PruneReport:
    """What ``prune`` would do with the points, and why. Touches nothing. Raises DamagedData, StoreError.

    Nothing tells the store's time to who only reads, so the clock of this host stands in for it.
    """
    points, now = repository.points.all(), time.time()
    decisions = judge(points, policy, now)
    return _report(decisions, _held(points, decisions, repository.keeps.holding(_utc(now))))


def judge(points: Sequence[Point], policy: Policy, now: float) -> tuple[Decision, ...]:
    """A decision for each point. What is dated after ``now``, the store's time, by a day or more stays.

    And it does not count: a point dated a year ahead would else make all others too old for a policy. Raises
    NoSuchPoint if a domain that the policy names has no points.
    """
    policy = policy.resolved(points)
    limit = _utc(now) + AHEAD
    usual = {item.point: item for item in decide((point for point in points if point.time <= limit), policy)}
    return tuple(
        usual.get(item.point) or replace(item, keep=True, reasons=(f"dated after {limit:%Y-%m-%d}",))
        for item in decide(points, policy)
    )


def prune(
    repository: Repository, policy: Policy, grace: timedelta = GRACE, observer: Observer = ignore
) -> PruneReport:
    """Remove the points that ``policy`` does not keep, and what was condemned ``grace`` or longer ago.

    With a grace time of nothing, what is unreachable is removed at once, and runs that have begun before
    may fail and have to be repeated. Raises UsageError, Locked, DamagedData if a point is so damaged that
    it cannot be told what it needs (then nothing at all is removed), StoreError.
    """
    if grace < timedelta(0):
        raise UsageError("the grace time cannot be negative")
    with Lease.take(repository.store, repository.keys.boxes(), "prune") as lease:
        return _Prune(repository, lease, grace.total_seconds(), observer).run(policy)


def _utc(now: float) -> datetime:
    return datetime.fromtimestamp(now, UTC)


Held = Mapping[str, Keep]
"""By point id the keep that alone lets the point stay."""


def _held(points: Iterable[Point], decisions: Iterable[Decision], keeps: Mapping[Name, Keep]) -> Held:
    """The points that ``decisions`` would remove and a keep holds."""
    doomed = {item.point for item in decisions if not item.keep}
    names = ((point.uuid, point.point) for point in points if point.point in doomed)
    return {name[1]: keeps[name] for name in names if name in keeps}


def _spared(decision: Decision, held: Held) -> Decision:
    keep = held.get(decision.point)
    return decision if keep is None else replace(decision, keep=True, reasons=(keep.reason,))


def _report(
    judged: tuple[Decision, ...], held: Held, condemned: int = 0, reclaim: Reclaim | None = None
) -> PruneReport:
    decisions = tuple(_spared(item, held) for item in judged)
    return PruneReport(
        kept=tuple(item.point for item in decisions if item.keep),
        removed=tuple(item.point for item in decisions if not item.keep),
        packs_condemned=condemned,
        packs_deleted=reclaim.deleted if reclaim else 0,
        packs_compacted=reclaim.compacted if reclaim else 0,
        bytes_freed=reclaim.bytes_freed if reclaim else 0,
        decisions=decisions,
        held=tuple(held),
    )


@dataclass
class _Prune:
    """One prune, which holds the lease."""

    repository: Repository
    lease: Lease
    grace: float
    observer: Observer
    disposal: Disposal = field(default_factory=Disposal)
    mark: Reachability = field(init=False)

    def __post_init__(self) -> None:
        self.mark = Reachability(self.repository, self.disposal, self.lease.renew)

    def run(self, policy: Policy) -> PruneReport:
        """Do it all, in the order that docs/format.md proves right."""
        if not self.repository.descriptor.conditional_writes:
            self.observer(Notice("repository", UNCONDITIONAL))
        decisions, held = self._apply(policy)
        self._step("mark")
        self.mark.add_new(self.lease.measure())
        self._step("survey")
        records = self.repository.condemned.read(self.repository.condemned.listed())
        condemned = union(record.packs for record in records)
        survey = Survey(self.repository, self.mark.reach, condemned, self.lease.renew)
        self._step("condemn")
        fresh, final = self._sentence(records, survey)
        # Only now, after the final records are durable: whoever commits unseen by this has seen them.
        self.mark.add_new(self.lease.measure())
        self._step("reclaim")
        reclaim = Reclaim(self.repository, survey, self.disposal, self.lease.renew)
        reclaim.run(final)
        self._forget(records, reclaim)
        self._forget_damage(survey)
        self._tidy_verified(survey)
        self._forget_keeps()
        self._tell_unlike(reclaim.unlike)
        self._tell_refusal()
        return _report(decisions, held, len(fresh), reclaim)

    def _step(self, name: str) -> None:
        self.observer(Step("repository", name))

    def _apply(self, policy: Policy) -> tuple[tuple[Decision, ...], Held]:
        """Remove points, but only after it is known that what the others need can be told."""
        self._step("points")
        points = self.repository.points.all()
        decisions = judge(points, policy, self.lease.now)
        kept = {item.point for item in decisions if item.keep}
        self.mark.add(point for point in points if point.point in kept)
        held = self._mark_held(points, decisions)
        self.lease.measure()
        kept |= held.keys()
        names = [(point.uuid, point.point) for point in points if point.point not in kept]
        if not self.disposal.attempt(lambda: self.repository.points.delete(names)):
            refused = {name for _, name in names} & {name for _, name in self.repository.points.names()}
            decisions = tuple(_kept_by_store(item) if item.point in refused else item for item in decisions)
        self._tell_unreadable(held)
        return decisions, held

    def _mark_held(self, points: Sequence[Point], decisions: tuple[Decision, ...]) -> Held:
        """Take in what a keep holds. Marking may take hours, so the last look finds nothing to mark."""
        held: dict[str, Keep] = {}
        while True:
            keeps = self.repository.keeps.holding(_utc(self.lease.measure()))
            fresh = _held(points, decisions, keeps)
            if fresh.keys() <= held.keys():
                return fresh
            self.mark.add(point for point in points if point.point in fresh.keys() - held.keys())
            held |= fresh

    def _tell_unreadable(self, held: Held) -> None:
        for point, keep in held.items():
            if keep.damage is not None:
                text = f"restore point {point} stays, as its keep cannot be read: {keep.damage}"
                self.observer(Notice("repository", f"{text}; 'puller release' ends it"))

    def _forget_keeps(self) -> None:
        """Drop the keeps of points that are gone. Listed first: a point that has one was there before."""
        keys = [info.key for info in self.repository.keeps.listed()]
        standing = set(self.repository.points.names()) if keys else set[Name]()
        gone = [key for key in keys if point_of(key) not in standing]
        self.disposal.attempt(lambda: self.repository.keeps.delete(gone))

    def _sentence(self, records: list[Record], survey: Survey) -> tuple[Condemnations, Condemnations]:
        """Put records of what is unreachable; return what is condemned anew, and all that is final."""
        now = self.lease.measure()
        due = [item for item in records if not item.final and item.modified + self.grace <= now]
        fresh = _news(survey, union(item.packs for item in records), now - self.grace)
        waiting, ripening = (fresh, {}) if self.grace else ({}, fresh)
        final = union(item.packs for item in records if item.final)
        ripe = _unreached(union([ripening, *(item.packs for item in due)]), survey, final)
        self.repository.condemned.put(True, self.grace, ripe)
        self.repository.condemned.put(False, self.grace, waiting)
        self.disposal.attempt(lambda: self.repository.condemned.delete(due))
        return fresh, union([final, ripe])

    def _forget(self, records: list[Record], reclaim: Reclaim) -> None:
        """Drop final records that no run needs any more: what they name is gone, from every generation."""
        limit = self.lease.measure() - KEPT
        done = [
            item
            for item in records
            if item.final and item.modified <= limit and reclaim.left.isdisjoint(item.packs)
        ]
        self.disposal.attempt(lambda: self.repository.condemned.delete(done))

    def _forget_damage(self, survey: Survey) -> None:
        """Drop what checks have recorded of packs that are gone and that no point needs."""
        void = [
            record for record in self.repository.damaged.read() if not any(map(survey.matters, record.packs))
        ]
        self.disposal.attempt(lambda: self.repository.damaged.delete(void))

    def _tidy_verified(self, survey: Survey) -> None:
        """Keep the records of what checks have read few, and free of what is gone."""
        damaged = since(self.repository.damaged.read())
        verified = self.repository.verified

        def counts(proof: Proof) -> bool:
            pack = survey.packs.get(proof.pack_id)
            return pack is not None and proof.generation in pack.generations and outlives(proof, damaged)

        tidied = tidy(verified.read(verified.listed()), counts)
        verified.put(tidied.merged)
        self.disposal.attempt(lambda: verified.delete(tidied.void))

    def _tell_unlike(self, names: Sequence[str]) -> None:
        if names:
            text = "packs are left as they are, since their generations differ or cannot be read"
            self.observer(Notice("repository", f"{text}: {len(names)}, such as {names[0]}"))

    def _tell_refusal(self) -> None:
        if self.disposal.refusal is not None:
            text = "the store does not let all be deleted that is not needed; a later prune tries again"
            self.observer(Notice("repository", f"{text}: {self.disposal.refusal.message}"))


def _kept_by_store(decision: Decision) -> Decision:
    return decision if decision.keep else replace(decision, keep=True, reasons=(NOT_LET_GO,))


def _news(survey: Survey, known: Condemnations, limit: float) -> dict[bytes, CondemnedSlots]:
    """Garbage in packs from before ``limit`` that is not condemned yet."""
    return {
        pack_id: sentence
        for pack_id, sentence in survey.garbage.items()
        if survey.packs[pack_id].modified <= limit and sentence.slots & ~slots_in(known, pack_id)
    }


def _unreached(packs: Condemnations, survey: Survey, final: Condemnations) -> dict[bytes, CondemnedSlots]:
    """What of ``packs`` is there, unreachable still, and not ``final`` yet.

    A pack that was condemned whole and has come to be used again is let off whole.
    """
    left: dict[bytes, CondemnedSlots] = {}
    for pack_id, sentence in packs.items():
        if pack_id not in survey.packs:
            continue
        live = survey.live(pack_id)
        slots = 0 if live and sentence.slots == ALL else sentence.slots & ~live
        if slots & ~slots_in(final, pack_id):
            left[pack_id] = CondemnedSlots(sentence.kind, slots)
    return left
