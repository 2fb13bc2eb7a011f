"""Prune: retention, then removal of data that no restore point reaches, during running backups.

Removal takes two prunes: one condemns data; a later one, after the grace time, makes that final, checks once
more what is reached, and removes the rest. docs/format.md proves that this is safe ("Why prune is safe")
after a crash at any point, and during backups.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial

from puller.errors import StoreDenied, UsageError
from puller.events import Notice, Observer, Step, ignore
from puller.repository.collecting.disposal import Disposal
from puller.repository.collecting.inventory import Inventory, list_packs
from puller.repository.collecting.lease import Lease
from puller.repository.locking import locked_like
from puller.repository.points import AHEAD, Point
from puller.repository.reading.indexes import list_index
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
from puller.repository.records.proofs import superfluous
from puller.repository.records.verified import VerifiedPack, outlives, tidy
from puller.repository.repository import Repository
from puller.repository.writing.pending import Pending
from puller.store.base import ObjectInfo
from puller.store.parallel import together
from puller.store.probe import UNCONDITIONAL
from puller.upkeep.pruning.leftovers import sweep
from puller.upkeep.pruning.reachability import Reachability
from puller.upkeep.pruning.reclaim import Reclaim
from puller.upkeep.pruning.survey import Survey
from puller.upkeep.pruning.sweep import Sweep, Waiting
from puller.upkeep.retention.policy import Decision, Policy, decide
from puller.upkeep.retention.staying import recorded_ends, stay_locked, stored_ends

NOT_LET_GO = "the store does not let it be deleted"
"""Reason for a point that stays although no rule keeps it."""

GRACE = timedelta(days=1)
"""Default grace time. A run that is at least five minutes shorter is never refused because of a prune."""


@dataclass(frozen=True, slots=True)
class PruneReport:
    """Report of a prune.

    Attributes:
        kept: Ids of the points that stay.
        removed: Ids of the points that were deleted.
        packs_condemned: Packs with slots that this prune condemned; they wait for the grace time.
        packs_deleted: Packs that were deleted.
        packs_compacted: Packs that were rewritten without unneeded content.
        bytes_freed: Bytes of the deleted packs, plus the bytes that compaction saved.
        decisions: The decision for each point, with its reasons.
        held: Points among ``kept`` that only a keep holds.
        waiting: Deleted objects that the store still keeps, by the day on which their lock or grace time
            ends; empty without a lock policy.
    """

    kept: tuple[str, ...]
    removed: tuple[str, ...]
    packs_condemned: int
    packs_deleted: int
    packs_compacted: int
    bytes_freed: int
    decisions: tuple[Decision, ...]
    held: tuple[str, ...] = ()
    waiting: tuple[Waiting, ...] = ()


def preview(repository: Repository, policy: Policy) -> PruneReport:
    """Return what ``prune`` would do with the points, and why. Raises DamagedData, StoreError.

    It changes nothing, so it cannot learn the store's time and uses this host's clock.
    """
    points, now = repository.points.all(), time.time()
    decisions = stay_locked(judge(points, policy, now), recorded_ends(repository, points), _utc(now))
    return _report(decisions, _by_id(points, repository.keeps.holding(_utc(now))))


def judge(points: Sequence[Point], policy: Policy, now: float) -> tuple[Decision, ...]:
    """Return a decision for each point. Points dated a day or more after ``now``, the store's time, stay.

    They do not count either: a point dated a year ahead would otherwise make all others too old for a policy.
    Raises NoSuchPoint if a domain that the policy names has no points.
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
    """Remove the points that ``policy`` does not keep, and data condemned at least ``grace`` ago.

    With a grace time of zero, unreachable data is removed at once, and running backups may fail and have to
    be repeated. Raises UsageError, Locked, StoreError, and DamagedData if a point is so damaged that its data
    is unknown (then nothing is removed).
    """
    if grace < timedelta(0):
        raise UsageError("the grace time cannot be negative")
    with Lease.take(repository.store, repository.keys.boxes(), "prune") as lease:
        return _Prune(repository, lease, grace.total_seconds(), observer).run(policy)


def _utc(now: float) -> datetime:
    return datetime.fromtimestamp(now, UTC)


KeepsById = Mapping[str, Keep]
"""The keeps of existing points by point id."""


def _by_id(points: Iterable[Point], keeps: Mapping[Name, Keep]) -> KeepsById:
    names = ((point.uuid, point.point) for point in points)
    return {name[1]: keeps[name] for name in names if name in keeps}


def _held(decisions: Iterable[Decision], keeps: KeepsById) -> list[str]:
    """Return the points that ``decisions`` would remove but a keep holds."""
    return [item.point for item in decisions if not item.keep and item.point in keeps]


def _spared(decision: Decision, keep: Keep | None) -> Decision:
    """Return the decision with the keep as a reason, the only one if no rule keeps the point."""
    if keep is None:
        return decision
    reasons = (*decision.reasons, keep.reason) if decision.keep else (keep.reason,)
    return replace(decision, keep=True, reasons=reasons)


def _report(
    judged: tuple[Decision, ...],
    keeps: KeepsById,
    condemned: int = 0,
    reclaim: Reclaim | None = None,
    sweep: Sweep | None = None,
) -> PruneReport:
    decisions = tuple(_spared(item, keeps.get(item.point)) for item in judged)
    return PruneReport(
        kept=tuple(item.point for item in decisions if item.keep),
        removed=tuple(item.point for item in decisions if not item.keep),
        packs_condemned=condemned,
        packs_deleted=reclaim.deleted if reclaim else 0,
        packs_compacted=reclaim.compacted if reclaim else 0,
        bytes_freed=sweep.freed if sweep else reclaim.bytes_freed if reclaim else 0,
        decisions=decisions,
        held=tuple(_held(judged, keeps)),
        waiting=sweep.waiting if sweep else (),
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
    _pending: list[Pending] = field(init=False)
    _indexes: list[ObjectInfo] = field(init=False)
    _condemned: list[ObjectInfo] = field(init=False)
    _has_locks: bool = field(init=False)

    def __post_init__(self) -> None:
        self.mark = Reachability(self.repository, self.disposal, self.lease.renew)

    def run(self, policy: Policy) -> PruneReport:
        """Run the steps in the order that docs/format.md proves safe."""
        if not self.repository.descriptor.conditional_writes:
            self.observer(Notice("repository", UNCONDITIONAL))
        decisions, keeps = self._apply(policy)
        self._step("survey")
        records, survey = self._survey()
        self._step("condemn")
        fresh, final = self._sentence(records, survey)
        # Only now, after the final records are durable: a run whose commit this misses has seen them.
        self.mark.add_new(self.lease.recent())
        self._step("reclaim")
        store = self.repository.store
        like = partial(locked_like, store, self.lease.now) if self._has_locks else lambda name: store
        reclaim = Reclaim(self.repository, survey, self.disposal, self.lease.renew, like)
        together(
            self.repository.scope,
            lambda _: reclaim.run(final),
            lambda _: self._tidy(survey),
            lambda own: sweep(self.repository.store.within(own), self.disposal, self.lease.now),
        )
        self._forget(records, reclaim)
        self._tell_unlike(reclaim.unlike)
        self._tell_refusal()
        swept = self._sweep(survey) if self._has_locks else None
        return _report(decisions, keeps, len(fresh), reclaim, swept)

    def _sweep(self, survey: Survey) -> Sweep:
        """Permanently delete what this and earlier prunes deleted, unless it is locked."""
        self._step("sweep")
        now = self.lease.measure()
        sweep = Sweep(self.repository.store, self.grace, now, self.lease.renew, survey.misses)
        for text in sweep.run():
            self.observer(Notice("repository", text))
        return sweep

    def _survey(self) -> tuple[list[Record], Survey]:
        """Mark the points that are new, and survey the packs.

        Points are listed after the pending ones, and packs after the index. Nothing is removed by this mark
        alone: it is repeated once all that is final is durable.
        """
        repository = self.repository
        self.mark.add_pending(self._pending, self.lease.recent())
        names, packs, records, policies = together(
            repository.scope,
            lambda own: repository.points.within(own).names(),
            lambda own: list_packs(repository.store.within(own)),
            lambda own: repository.condemned.within(own).read(self._condemned),
            lambda own: repository.lock_policies.within(own).names(),
        )
        self._has_locks = bool(policies)
        self.mark.add_committed(names)
        inventory = Inventory.of(self._indexes, packs)
        condemned = union(record.packs for record in records)
        return records, Survey(repository, self.mark.reach, inventory, condemned, self.lease.renew)

    def _tidy(self, survey: Survey) -> None:
        """Delete small objects that nobody needs: each kind by itself, and none that a pack depends on."""
        together(
            self.repository.scope,
            lambda _: self._forget_damage(survey),
            lambda _: self._tidy_verified(survey),
            lambda _: self._forget_keeps(),
            lambda _: self._forget_proofs(),
        )

    def _step(self, name: str) -> None:
        self.observer(Step("repository", name))

    def _apply(self, policy: Policy) -> tuple[tuple[Decision, ...], KeepsById]:
        """Remove points, but only after the data of all others is known."""
        self._step("points")
        repository = self.repository
        points = repository.points.all()
        decisions = self._judge(points, policy)
        kept = {item.point for item in decisions if item.keep}
        self.mark.add(point for point in points if point.point in kept)
        keeps = self._mark_held(points, decisions)
        held = {point: keeps[point] for point in _held(decisions, keeps)}
        self.lease.recent()
        kept |= held.keys()
        names = [(point.uuid, point.point) for point in points if point.point not in kept]
        self._step("mark")
        deleted, self._pending, self._indexes, self._condemned = together(
            repository.scope,
            lambda own: self.disposal.attempt(lambda: repository.points.within(own).delete(names)),
            lambda own: list(repository.pending.within(own).listed()),
            lambda own: list(list_index(repository.store.within(own))),
            lambda own: repository.condemned.within(own).listed(),
        )
        if not deleted:
            refused = {name for _, name in names} & {name for _, name in self.repository.points.names()}
            decisions = tuple(_kept_by_store(item) if item.point in refused else item for item in decisions)
        self._tell_unreadable(held)
        return decisions, keeps

    def _judge(self, points: Sequence[Point], policy: Policy) -> tuple[Decision, ...]:
        """Keep points that the store would keep anyway: it is asked about those that claim to be locked."""
        now = _utc(self.lease.now)
        judged = judge(points, policy, self.lease.now)
        kept = {item.point for item in judged if item.keep}
        ends = stored_ends(self.repository, [point for point in points if point.point not in kept], now)
        return stay_locked(judged, ends, now)

    def _mark_held(self, points: Sequence[Point], decisions: tuple[Decision, ...]) -> KeepsById:
        """Mark data of held points, and return all keeps.

        Marking may take hours, so it repeats until no new keep is found.
        """
        marked: set[str] = set()
        while True:
            keeps = _by_id(points, self.repository.keeps.holding(_utc(self.lease.recent())))
            fresh = set(_held(decisions, keeps)) - marked
            if not fresh:
                return keeps
            self.mark.add(point for point in points if point.point in fresh)
            marked |= fresh

    def _tell_unreadable(self, held: KeepsById) -> None:
        for point, keep in held.items():
            if keep.damage is not None:
                text = f"restore point {point} stays, because its keep cannot be read: {keep.damage}"
                self.observer(Notice("repository", f"{text}; run 'puller release' to end it"))

    def _forget_keeps(self) -> None:
        """Delete the keeps of deleted points. Keeps are listed before points, so no keep misses its point."""
        keys = [info.key for info in self.repository.keeps.listed()]
        standing = set(self.repository.points.names()) if keys else set[Name]()
        gone = [key for key in keys if point_of(key) not in standing]
        self.disposal.attempt(lambda: self.repository.keeps.delete(gone))

    def _forget_proofs(self) -> None:
        """Delete proofs that nobody needs. They are listed before points, so no proof misses its point."""
        found = self.repository.proofs.listed()
        standing = set(self.repository.points.names()) if found else set[Name]()
        self.disposal.attempt(lambda: self.repository.proofs.delete(superfluous(found, standing)))

    def _sentence(self, records: list[Record], survey: Survey) -> tuple[Condemnations, Condemnations]:
        """Put records of unreachable slots; return the newly condemned slots, and all final ones."""
        now = self.lease.recent()
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
        """Delete final records that no run needs any more: their slots are gone from every generation."""
        limit = self.lease.recent() - KEPT
        done = [
            item
            for item in records
            if item.final and item.modified <= limit and reclaim.left.isdisjoint(item.packs)
        ]
        self.disposal.attempt(lambda: self.repository.condemned.delete(done))

    def _forget_damage(self, survey: Survey) -> None:
        """Delete checks' records of damaged packs that are gone and that no point needs."""
        void = [
            record for record in self.repository.damaged.read() if not any(map(survey.matters, record.packs))
        ]
        self.disposal.attempt(lambda: self.repository.damaged.delete(void))

    def _tidy_verified(self, survey: Survey) -> None:
        """Merge the records of verified packs, and drop packs that are gone."""
        damaged = since(self.repository.damaged.read())
        verified = self.repository.verified

        def counts(entry: VerifiedPack) -> bool:
            pack = survey.packs.get(entry.pack_id)
            return pack is not None and entry.generation in pack.generations and outlives(entry, damaged)

        tidied = tidy(verified.read(verified.listed()), counts)
        try:
            verified.put(tidied.merged)
        except StoreDenied as error:  # they only save work, so the prune has succeeded
            self.observer(
                Notice("repository", f"cannot merge the records of verified packs: {error.message}")
            )
            return
        self.disposal.attempt(lambda: verified.delete(tidied.void))

    def _tell_unlike(self, names: Sequence[str]) -> None:
        if names:
            text = "packs are left as they are, since their generations differ or cannot be read"
            self.observer(Notice("repository", f"{text}: {len(names)}, such as {names[0]}"))

    def _tell_refusal(self) -> None:
        if self.disposal.refusal is not None:
            text = "the store refuses to delete some unneeded objects; a later prune tries again"
            self.observer(Notice("repository", f"{text}: {self.disposal.refusal.message}"))


def _kept_by_store(decision: Decision) -> Decision:
    return decision if decision.keep else replace(decision, keep=True, reasons=(NOT_LET_GO,))


def _news(survey: Survey, known: Condemnations, limit: float) -> dict[bytes, CondemnedSlots]:
    """Return unreachable slots, not condemned yet, of packs older than ``limit``."""
    return {
        pack_id: sentence
        for pack_id, sentence in survey.garbage.items()
        if survey.packs[pack_id].modified <= limit and sentence.slots & ~slots_in(known, pack_id)
    }


def _unreached(packs: Condemnations, survey: Survey, final: Condemnations) -> dict[bytes, CondemnedSlots]:
    """Return the slots of ``packs`` that exist, are still unreachable, and are not ``final`` yet.

    A pack that was condemned as a whole and is in use again is omitted as a whole.
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
