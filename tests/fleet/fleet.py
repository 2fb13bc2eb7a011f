"""A simulated fleet: hosts whose timers run puller's jobs on a fake clock, for months, while hosts die.

Real are the jobs, the repositories, prune, copies, checks, the choice of drills, restores, and the report.
Simulated are the disks, libvirt, the machines that a drill would start, the stores, and the clock.
"""

from __future__ import annotations

import os
import pkgutil
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from puller import api
from puller.cancelling import find_stop
from puller.cli.commands.report import document
from puller.configuration.job import Job, JobStep
from puller.configuration.schema import Keep
from puller.errors import Locked, NoSuchPoint, Overtaken, StoreError
from puller.events import Observer
from puller.jobs.job import run_job
from puller.recovery.proving import prove as proving
from puller.repository import repository as repositories
from puller.repository.keys.key_slots import Password
from puller.repository.points import Point
from puller.repository.records.proofs import Proof, Proofs, Verdict
from puller.repository.repository import Repository
from puller.repository.writing.run import Run
from puller.store.base import Store
from puller.units import CHUNK, KIB
from puller.upkeep.pruning.prune import PruneReport
from puller.upkeep.retention.policy import Policy
from tests.fleet.audit import restores, wrong
from tests.fleet.backing_up import back_up
from tests.fleet.clock import Clock
from tests.fleet.guests import BROKEN, Guest
from tests.fleet.hosts import BEGIN, NEVER, Host, HostProcess, Size, Steady, Timer
from tests.fleet.model import DAY, Contents, Ledger, Rules
from tests.lab.feed import read_disk
from tests.lab.history import Disk, chunk, content, misleading_index
from tests.lab.simulated import Died, Failure, InSomeOrder, Process, World
from tests.upkeep.simulation import LATEST, PAGED, Names

MAIN, OFFSITE = "main", "offsite"
KEEP = Keep(daily=5, weekly=3, monthly=2)
OFFSITE_RULES = Rules(daily=3, weekly=4, monthly=3)
GRACE = timedelta(days=1)
PAGE = 2

HOUR = timedelta(hours=1)


class Fleet:
    """The hosts, their guests, two repositories, and the truth about them. ``seed`` decides what happens."""

    def __init__(self, size: Size, folder: Path, seed: int = 1) -> None:
        self.size, self.folder = size, folder
        self.chance = random.Random(seed)
        self.worlds = {MAIN: World(), OFFSITE: World()}
        self.clock = Clock(list(self.worlds.values()), BEGIN)
        self.ledgers = {name: Ledger(world) for name, world in self.worlds.items()}
        self.contents: Contents = {}
        self.hosts = [Host(name, folder) for name in size.names]
        self.here = self.hosts[0]
        self.guests = self._made_guests()
        self.depth = 0
        self.counts: Counter[str] = Counter()
        self.found: list[str] = []
        self.timers = sorted(self._made_timers())
        self._names = count()

    # --- building ---------------------------------------------------------------------------

    def _made_guests(self) -> dict[str, Guest]:
        found = {}
        for number in range(self.size.domains):
            host = self.hosts[number % len(self.hosts)]
            guest = Guest(f"{host.name}-{number}", host.name)
            guest.write(self.chance, 6)
            found[guest.domain] = guest
        return found

    def _made_timers(self) -> Iterator[Timer]:
        numbers = count()
        for host in self.hosts:
            host.jobs = {"nightly": self._job(host)}
            yield Timer(BEGIN + HOUR, next(numbers), host, "nightly", DAY, HOUR / 2)
            yield Timer(BEGIN + 2 * DAY + 4 * HOUR, next(numbers), host, "prove", 3 * DAY, HOUR)
            yield Timer(BEGIN + 4 * DAY + 5 * HOUR, next(numbers), host, "check", 7 * DAY, HOUR)
        keeper = self.hosts[0]
        yield Timer(BEGIN + DAY + 6 * HOUR, next(numbers), keeper, "prune offsite", DAY, HOUR / 2)
        yield Timer(BEGIN + DAY + 8 * HOUR, next(numbers), keeper, "report", DAY, HOUR / 4)

    def _job(self, host: Host) -> Job:
        """The configuration of its administrators: who lives there when it is written."""
        return Job(
            "nightly",
            (f"{host.name}-*",),
            repository=MAIN,
            interval="1d",
            then=("copy", "prune"),
            keep=KEEP,
            grace=GRACE,
            check=100.0,
            check_max_age=timedelta(days=14),
            prove=2,
            copy_to=OFFSITE,
        )

    def open_stores(self, patch: pytest.MonkeyPatch) -> None:
        """Make both repositories, and let puller meet this fleet in place of real hosts."""
        self.clock.rule(patch)
        _shrink(patch)
        patch.setenv("PULLER_CACHE_DIR", str(self.here.cache))
        patch.setattr("platform.node", lambda: self.here.name)
        patch.setattr("puller.jobs.job.lock_directory", lambda: self.here.cache / "run")
        patch.setattr("puller.jobs.job.connect", lambda *_: nullcontext(self))
        patch.setattr("puller.api.backup", self._back_up)
        patch.setattr(proving, "Host", SimpleNamespace(connect=lambda *_: nullcontext()))
        patch.setattr(proving, "clear_leftovers", lambda *_: 0)
        patch.setattr(proving, "drill", self._drill)
        for target, wrapper in (
            ("puller.api.prune", self._prune),
            ("puller.repository.writing.run.Run.commit", self._commit),
            ("puller.repository.repository.Repository.republish", self._republish),
            ("puller.repository.records.proofs.Proofs.put", self._note_proof),
        ):
            _wrap(patch, target, wrapper)
        self._templates = {
            name: repositories.create(Process(world), Password(name)) for name, world in self.worlds.items()
        }

    def uuids(self) -> Mapping[str, str]:
        """What libvirt of the host at work knows."""
        return {guest.domain: guest.uuid for guest in self._living(self.here)}

    def _living(self, host: Host) -> list[Guest]:
        return [guest for guest in self.guests.values() if guest.host == host.name]

    # --- time -------------------------------------------------------------------------------

    def run(self) -> None:
        """Live through all days."""
        for day in range(self.size.days):
            self._begin_day(day)
            self._run_until(BEGIN + (day + 1) * DAY)

    def _run_until(self, end: datetime) -> None:
        while (due := self._next_due()) is not None and due[0] < end:
            self.clock.reach(due[0])
            self._fire(due[1])
        self.clock.reach(end)

    def _next_due(self) -> tuple[datetime, Timer] | None:
        """The timer that fires first: one that was missed fires when its host is back."""
        waiting = [(max(timer.due, timer.host.back), timer) for timer in self.timers]
        waiting = [item for item in waiting if item[0] != NEVER]
        return min(waiting, default=None)

    def _fire(self, timer: Timer) -> None:
        late = timedelta(seconds=self.chance.random() * timer.jitter.total_seconds())
        while timer.due <= self.clock.moment:
            timer.due += timer.period
        timer.due = timer.due.replace(minute=0, second=0) + late
        with self._on(timer.host):
            works: dict[str, Callable[[], None]] = {
                "nightly": partial(self._run_job, None),
                "prove": partial(self._run_job, ("prove",)),
                "check": partial(self._run_job, ("check",)),
                "prune offsite": self._prune_offsite,
                "report": self._report,
            }
            works[timer.work]()

    def _begin_day(self, day: int) -> None:
        """What befalls the guests and hosts on this day."""
        chance, last = self.chance, self.hosts[-1]
        for guest in self.guests.values():
            host = next(host for host in self.hosts if host.name == guest.host)
            if host.back <= self.clock.moment:
                guest.write(chance, chance.randrange(3))
        if day == self.size.lost_on:
            self._lose(last)
        if day == 1:
            next(iter(self.guests.values())).is_off = True
        guest = chance.choice(list(self.guests.values()))
        what = chance.randrange(12)
        if what == 0:
            guest.is_off = not guest.is_off
        elif what == 1:
            guest.break_down()
            self.counts["guests that would not start"] += 1
        elif what == 2:
            guest.mend()
        elif what == 3 and day > 8:
            guest.encrypt()
            self.counts["attacks"] += 1
        elif what == 4 and chance.random() < 0.7:
            self._halt(chance.choice(self.hosts), timedelta(hours=chance.randrange(2, 70)))

    def _halt(self, host: Host, time: timedelta) -> None:
        """The host is down for a while: nothing runs on it, and its guests may have lost their bitmaps."""
        if host.back != NEVER:
            self.counts["hosts down"] += 1
            host.back = max(host.back, self.clock.moment + time)
            for guest in self._living(host):
                if self.chance.random() < 0.5:
                    guest.checkpoints.clear()

    def _lose(self, host: Host) -> None:
        """It never comes back; some of its guests are started elsewhere, the others are gone."""
        host.die()
        host.back = NEVER
        heir = self.hosts[0]
        saved = self._living(host)[::2]
        for guest in saved:
            guest.host = heir.name
            guest.checkpoints.clear()
        job = heir.jobs["nightly"]
        heir.jobs["nightly"] = replace(job, domains=(*job.domains, *(guest.domain for guest in saved)))

    @contextmanager
    def _on(self, host: Host) -> Iterator[None]:
        outer, self.here = self.here, host
        os.environ["PULLER_CACHE_DIR"] = str(host.cache)
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1
            self.here = outer
            os.environ["PULLER_CACHE_DIR"] = str(outer.cache)

    # --- processes --------------------------------------------------------------------------

    def _open(self, name: str) -> Repository:
        """The repository as a new process on the host at work sees it; it may fail, or give way to others."""
        process = HostProcess(self.worlds[name], name, self.here)
        chance, turn = self.chance, self.chance.randrange(160)
        what = chance.randrange(12)
        if what == 0:
            dying = (Failure.DIES_BEFORE, Failure.DIES_AFTER, Failure.DIES_LATE)
            process.failures[turn] = chance.choice(dying), chance.random() * 6 * 3600
        elif what == 1:
            failing = (Failure.REFUSED, Failure.UNANSWERED, Failure.LATE)
            process.failures[turn] = chance.choice(failing), chance.random() * 6 * 3600
        elif what < 5 and self.depth == 1:
            process.pauses[turn] = self._let_others_work
        template = self._templates[name]
        return Repository(process, template.descriptor, template.keys)

    def steady(self, name: str) -> Repository:
        """The repository as somebody sees it whom nothing befalls."""
        process, template = Steady(self.worlds[name], name), self._templates[name]
        return Repository(process, template.descriptor, template.keys)

    def _let_others_work(self) -> None:
        """What is due soon on other hosts begins now, in the midst of what this one does."""
        soon = self.clock.moment + 2 * HOUR
        for timer in self.timers:
            if timer.host is not self.here and timer.host.back <= self.clock.moment and timer.due <= soon:
                self.counts["jobs beside others"] += 1
                self._fire(timer)

    def _clear(self) -> None:
        """End the processes of the host; if one has died, the host is down."""
        died = any(process.is_dead for process in self.here.processes)
        self.here.processes.clear()
        if died:
            self.counts["hosts that died at work"] += 1
            self._halt(self.here, timedelta(hours=self.chance.randrange(1, 60)))

    # --- work -------------------------------------------------------------------------------

    def _run_job(self, steps: Sequence[JobStep] | None) -> None:
        job, repository = self.here.jobs["nightly"], self._open(MAIN)
        report = run_job(repository, job, steps=steps, copies=lambda: self._open(OFFSITE))
        self.counts["runs of jobs"] += 1
        for domain, error in (*report.taken.failed, *report.failures):
            self._judge(f"{domain} on {self.here.name}", error)
        if report.check is not None:
            self.counts["checks"] += 1
            self.found += [f"check: {error}" for error in report.check.errors]
        for failed in () if report.copy is None else report.copy.failed:
            self._judge(f"copy of {failed[0]}", failed[1])
        self._clear()

    def _judge(self, what: str, error: BaseException) -> None:
        """Count an error that failing hosts and stores explain; nothing else may happen."""
        cause = find_stop(error) or error
        if isinstance(cause, Died | StoreError | Locked | Overtaken | NoSuchPoint):
            self.counts[f"failures: {type(cause).__name__}"] += 1
        else:
            self.found.append(f"{what}: {cause!r}")

    def _back_up(
        self,
        repository: Repository,
        domain: str,
        *,
        observer: Observer,
        tags: Mapping[str, str],
        **_: object,
    ) -> Point:
        self.clock.advance(self.chance.randrange(20, 600))
        guest = self.guests[domain]
        point = back_up(repository, guest, self.contents, tags, observer, self._announce)
        self.counts["backups"] += 1
        return point

    def _announce(self, point: Point, disk: Disk) -> None:
        self.contents[point.point] = disk

    def _commit(self, real: Callable[[Run, Point], Point], run: Run, point: Point) -> Point:
        return self._published(run.repository.store, point, lambda: real(run, point))

    def _republish(
        self, real: Callable[..., Point], repository: Repository, point: Point, *rest: object
    ) -> Point:
        """What a copy does with a point in which nothing has changed."""
        self.counts["copies of what was unchanged"] += 1
        return self._published(repository.store, point, lambda: real(repository, point, *rest))

    def _published(self, store: Store, point: Point, publish: Callable[[], Point]) -> Point:
        ledger = self._ledger(store)
        if point.point in ledger.ever.keys() - ledger.names:
            self.found.append(f"{point.point} was copied again after it had been pruned")
        ledger.may_appear(point)
        made = publish()
        ledger.has_appeared(made)
        if point.copied_from is not None:
            self.counts["copies"] += 1
        return made

    def _ledger(self, store: Store) -> Ledger:
        return self.ledgers[store.url.removeprefix("simulated:")]

    def _prune(self, real: Prune, repository: Repository, policy: Policy, **options: Any) -> PruneReport:
        """Prune, and demand that what the rules keep stays and that the rest goes."""
        ledger = self._ledger(repository.store)
        ledger.settle()
        before, others = ledger.present, self.counts["jobs beside others"]
        rules = OFFSITE_RULES
        if policy.scope is not None:
            rules = Rules(
                KEEP.daily or 0, KEEP.weekly or 0, KEEP.monthly or 0, policy.scope.job, self.here.name
            )
        has_succeeded = False
        try:
            report = real(repository, policy, **options)
            has_succeeded = True
            self.counts["prunes"] += 1
            return report
        finally:
            is_alone = self.depth == 1 and others == self.counts["jobs beside others"]
            self.found += ledger.pruned(rules, before, succeeded=has_succeeded, alone=is_alone)

    def _prune_offsite(self) -> None:
        rules = OFFSITE_RULES
        policy = Policy(daily=rules.daily, weekly=rules.weekly, monthly=rules.monthly)
        try:
            api.prune(self._open(OFFSITE), policy, grace=GRACE)
        except BaseException as error:  # noqa: BLE001 - a host may die
            self._judge("prune offsite", error)
        self._clear()

    def _drill(self, repository: Repository, point: Point, *_: object) -> Proof:
        """A machine starts if what it starts from is there and in order."""
        data = read_disk(repository, point.disks[0].root.address)
        if data != content(self.contents[point.point]):
            self.found.append(f"a drill met other content in {point.point}")
        verdict: Verdict = "failed" if data[:CHUNK] == chunk(BROKEN) else "proven"
        self.counts[f"drills: {verdict}"] += 1
        self.clock.advance(self.chance.randrange(20, 300))
        return Proof(self.clock.moment, verdict, point.domain, self.here.name, "agent")

    def _note_proof(
        self, real: Callable[..., str], proofs: Proofs, name: tuple[str, str], proof: Proof
    ) -> str:
        is_stored = False
        try:
            key = real(proofs, name, proof)
            is_stored = True
            return key
        finally:
            ledger = self.ledgers[MAIN]
            (ledger.drills if is_stored else ledger.doubtful_drills).setdefault(name[0], []).append(
                (name[1], proof)
            )

    # --- what is demanded -------------------------------------------------------------------

    def _report(self) -> None:
        """Compare what the report says with the truth."""
        opened = [self.steady(name) for name in self.worlds]
        for name, ledger in self.ledgers.items():
            self.found += [f"{name}: {fault}" for fault in ledger.faults()]
        self.ledgers[MAIN].settle_drills(self.steady(MAIN).proofs)
        days = (self.clock.moment - BEGIN).days + 3
        told = document(api.report(opened, days=days))
        self.counts["reports"] += 1
        self.found += [
            f"{self.clock.moment:%Y-%m-%d}: {fault}" for fault in wrong(self.ledgers, told, self.clock.moment)
        ]

    def finish(self) -> None:
        """Let the dust settle; then each point of both repositories restores exactly."""
        self.clock.advance(LATEST)
        for name, ledger in self.ledgers.items():
            self.found += [f"{name}: {fault}" for fault in ledger.faults()]
            repository = self.steady(name)
            for point in repository.points.all():
                self.counts[f"restored from {name}"] += 1
                if not restores(repository, point, self.contents[point.point], self.folder / "restored"):
                    self.found.append(f"{name}: {point.point} does not restore")
            self.found += [
                f"{name}: the index misleads about {pack}" for pack in misleading_index(repository)
            ]


Prune = Callable[..., PruneReport]


def _shrink(patch: pytest.MonkeyPatch) -> None:
    """Small disks with several pages each; one pack of each kind a run, so that no threads store at once."""
    names = Names()
    patch.setattr("secrets.token_hex", names.hex)
    patch.setattr("puller.repository.writing.packing.os", SimpleNamespace(urandom=names.bytes))
    patch.setattr("puller.repository.writing.run.DATA_PACK", 1024 * KIB)
    patch.setattr("puller.repository.writing.run.MAP_PACK", 1024 * KIB)
    patch.setattr("puller.store.parallel.all_together", InSomeOrder().do_all)
    for module in (*PAGED, "repository.reading.difference"):
        patch.setattr(f"puller.{module}.PAGE_CHUNKS", PAGE)


def _wrap(patch: pytest.MonkeyPatch, target: str, wrapper: Callable[..., Any]) -> None:
    """Call ``wrapper`` with what is at ``target``, and the arguments."""
    owner, _, name = target.rpartition(".")
    real = getattr(pkgutil.resolve_name(owner), name)
    patch.setattr(target, lambda *words, **options: wrapper(real, *words, **options))


def live(size: Size, folder: Path, seed: int = 1) -> Fleet:
    """Let a fleet live through its days; ``found`` has what went wrong."""
    with pytest.MonkeyPatch.context() as patch:
        fleet = Fleet(size, folder, seed)
        fleet.open_stores(patch)
        try:
            fleet.run()
            fleet.finish()
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return fleet
