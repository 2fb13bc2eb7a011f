"""Histories of guests, hosts, backups, deletions, prunes, crashes and lost answers, as plain values.

A history is a list of steps, each with all the numbers that its choices are taken from, so that it can be
played again, printed, and made smaller. The model knows what each guest's disk was when a point was taken.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count, cycle
from pathlib import Path
from types import SimpleNamespace
from typing import TypeVar

import pytest

from puller.backups import clock
from puller.backups.bases.history import History
from puller.errors import (
    AmbiguousPoint,
    DamagedData,
    Locked,
    NoSuchPoint,
    Overtaken,
    PointKept,
    RepositoryError,
    StoreError,
)
from puller.events import ignore
from puller.repository.points import Point, object_name
from puller.repository.records.kept import Keep
from puller.repository.repository import Repository
from puller.units import KIB
from puller.upkeep.pruning.prune import GRACE, prune
from puller.upkeep.retention.delete import delete
from puller.upkeep.retention.keep import keep, release
from puller.upkeep.retention.policy import Policy
from tests.lab.history import MOMENT, ZEROED, Backup, Disk, back_up, is_whole, misleading_index, uuid_of
from tests.lab.simulated import Died, Failure, InSomeOrder, ShakyProcess
from tests.upkeep.scene import NOW, Scene

CHUNKS = 6
PAGE = 2
"""Chunks a page: small disks have some pages, which points share."""

LATEST = 6 * 3600.0
"""Seconds after which a request that was not answered has taken effect, or never will."""

NAP = timedelta(hours=12)
"""The longest pause within a process. With LATEST it stays below the day for which a point is pending."""

T = TypeVar("T")


@dataclass(frozen=True)
class Step:
    """``failure`` and ``during`` happen at the turn they name; ``during`` is what others do meanwhile."""

    action: str
    picks: tuple[int, ...]
    failure: tuple[int, Failure] | None = None
    during: tuple[int, tuple[Step, ...]] | None = None


TURNS = {"backup": 14, "commit": 5, "begin": 8, "delete": 3, "prune": 40, "keep": 6, "release": 3}
"""By action: about how many turns it has. What fails and pauses is taken modulo this."""


class Picks:
    """Takes a step's choices from its numbers, one after the other."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self._numbers = cycle(numbers)

    def one_of(self, options: Sequence[T]) -> T:
        return options[next(self._numbers) % len(options)]

    def number(self, limit: int) -> int:
        return next(self._numbers) % limit


@dataclass(frozen=True)
class Host:
    """A machine with a cache and clocks of its own, of which nothing may depend."""

    cache: Path
    skew: timedelta
    boot: float
    rate: float

    @property
    def name(self) -> str:
        return self.cache.name

    def uptime(self, now: float) -> float:
        """What its clock of seconds since boot shows at the store's time ``now``."""
        return self.boot + self.rate * now


@dataclass
class Held:
    """A run that has stored all and not committed yet."""

    host: Host
    process: ShakyProcess
    backup: Backup


@dataclass(eq=False)
class Pruning:
    """A prune that is at work: it may remove a point if enough newer ones are in its ``pool``."""

    last: int
    pool: set[str]


@dataclass
class Simulation:
    """Plays steps. ``certain`` points have to be there; ``possible`` ones may or may not, but whole.

    ``held`` ones are kept: neither a prune nor a delete may remove them.
    """

    scene: Scene
    folder: Path
    certain: dict[str, Disk] = field(default_factory=dict)
    possible: dict[str, Disk] = field(default_factory=dict)
    points: dict[str, Point] = field(default_factory=dict)
    runs: list[Held] = field(default_factory=list)
    prunes: list[Pruning] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    held: set[str] = field(default_factory=set)
    releases: int = 0
    harm: int = -1
    depth: int = 0

    def __post_init__(self) -> None:
        self.hosts = [
            Host(self.folder / "alpha", timedelta(hours=3), 0.0, 1.0),
            Host(self.folder / "beta", timedelta(hours=-5, minutes=-20), 4e9, 0.98),
        ]
        self.host = self.hosts[0]
        self.disks = {domain: [0] * CHUNKS for domain in "abc"}
        self._taken = count(1)

    # --- steps ------------------------------------------------------------------------------

    def play(self, step: Step) -> None:
        """Play one step, and demand that nothing is lost. Raises AssertionError."""
        actions: dict[str, Callable[[Step, Picks], None]] = {
            "write": self._write,
            "backup": self._back_up,
            "begin": self._begin,
            "commit": self._commit,
            "delete": self._delete,
            "keep": self._keep,
            "release": self._release,
            "prune": self._prune,
            "wait": self._wait,
            "lose cache": self._lose_cache,
        }
        self.depth += 1
        try:
            actions[step.action](step, Picks(step.picks))
        finally:
            self.depth -= 1
        if not self.depth:
            self._resolve()
        self.verify()

    def finish(self) -> None:
        """Let the dust settle; then nothing is lost, and nothing is left over. Raises AssertionError."""
        self.runs.clear()
        self.scene.wait(timedelta(seconds=LATEST))
        self._resolve()
        with self._on(self.hosts[0]):
            self.scene.settle()
        self.harm = -1
        self.verify()
        waste = self.scene.waste()
        assert not waste, f"garbage is left: {waste}"
        kept = {name.split("/")[2] for name in self.scene.world.names("kept/")}
        assert kept <= self._names(), "keeps of points that are gone are left"
        for domain in self.disks:
            self._name_the_newest(domain)
            self._date_the_next(domain)

    def _name_the_newest(self, domain: str) -> None:
        """By its host; without one only where there is no other. Raises AssertionError."""
        points = self.scene.open()[1].points
        found = [self.points[name] for name in self.certain if self.points[name].domain == domain]
        hosts = {point.host for point in found}
        for host in hosts:
            newest = max((point for point in found if point.host == host), key=lambda point: point.time)
            assert points.select(f"{domain}@latest", (host,)) == newest
        if len(hosts) > 1:
            try:
                points.select(f"{domain}@latest")
            except AmbiguousPoint:
                return
            raise AssertionError(f"of two hosts' points of {domain} one is taken for the newest")

    def _date_the_next(self, domain: str) -> None:
        """Whatever objects somebody has put without a key. Raises AssertionError."""
        uuid = uuid_of(domain)
        self.scene.world.put(object_name(uuid, "20990101T000000Z-00000000"), b"of nobody")
        try:
            moment = clock.next_moment(History(self.scene.open()[1], uuid), domain, ignore)
        except RepositoryError as error:
            raise AssertionError(error.message) from error
        assert moment.year < 2099

    def _write(self, step: Step, picks: Picks) -> None:
        disk = self.disks[picks.one_of("abc")]
        for _ in range(1 + picks.number(4)):
            disk[picks.number(CHUNKS)] = picks.one_of([*range(1, 17), 0, 0, ZEROED])

    def _back_up(self, step: Step, picks: Picks) -> None:
        self._write(step, picks)
        held = self._store(step, picks)
        if held is not None:
            self._publish(held)

    def _begin(self, step: Step, picks: Picks) -> None:
        self._write(step, picks)
        held = self._store(step, picks)
        if held is not None:
            held.process.failures.clear()
            held.process.pauses.clear()
            self.runs.append(held)

    def _commit(self, step: Step, picks: Picks) -> None:
        if self.runs:
            held = self.runs.pop(picks.number(len(self.runs)))
            self._arrange(held.process, step)
            self._publish(held)

    def _delete(self, step: Step, picks: Picks) -> None:
        self._excuse(self._names())
        if not self.certain:
            return
        point_id = picks.one_of(sorted(self.certain))
        self._doubt(point_id)
        with self._on(picks.one_of(self.hosts)):
            _, repository = self._open(step)
            try:
                delete(repository, [point_id])
            except NoSuchPoint:
                assert point_id not in self._names()
            except (Died, StoreError, PointKept):
                return
        assert point_id not in self.held, "a point that is kept was deleted"
        self.possible.pop(point_id, None)

    def _keep(self, step: Step, picks: Picks) -> None:
        self._excuse(self._names())
        if not self.certain:
            return
        point_id = picks.one_of(sorted(self.certain))
        # A prune that is at work may have looked before, and a request of a dead one may be on its way.
        point = self.points[point_id]
        late = {item.key for item in self.scene.world.late}
        is_promised = not self.prunes and object_name(point.uuid, point_id) not in late
        releases = self.releases
        with self._on(picks.one_of(self.hosts)):
            _, repository = self._open(step)
            try:
                keep(repository, point_id, Keep())
            except NoSuchPoint:
                assert point_id not in self._names()
            except (Died, StoreError):
                return
            else:
                # A release in its midst may have come after it.
                if is_promised and point_id in self.certain and releases == self.releases:
                    self.held.add(point_id)

    def _release(self, step: Step, picks: Picks) -> None:
        names = sorted(self.certain)
        if not names:
            return
        point_id = picks.one_of(names)
        self.releases += 1
        self.held.discard(point_id)
        with self._on(picks.one_of(self.hosts)), suppress(NoSuchPoint, Died, StoreError):
            release(self._open(step)[1], point_id)
        self.held.discard(point_id)  # a keep in its midst may have come before it, or after

    def _prune(self, step: Step, picks: Picks) -> None:
        last = picks.one_of([0, 0, 0, 1, 2])
        mine = Pruning(last, {*self.certain, *self.possible})
        self.prunes.append(mine)
        grace = picks.one_of([NOW, GRACE, GRACE, GRACE / 2])
        with self._on(picks.one_of(self.hosts)):
            _, repository = self._open(step)
            try:
                prune(repository, Policy(last=last or None), grace)
            except (Died, Locked, StoreError):
                for point_id in [name for name in self.certain if self._may_go(name)]:
                    self._doubt(point_id)
            else:
                self._excuse(self._names())
            finally:
                self.prunes.remove(mine)

    def _wait(self, step: Step, picks: Picks) -> None:
        short = [timedelta(0), timedelta(minutes=20), NAP]
        long = [GRACE / 2, GRACE, GRACE, timedelta(days=15)]
        self.scene.wait(picks.one_of(short if self.depth > 1 else short[:2] + long))

    def _lose_cache(self, step: Step, picks: Picks) -> None:
        shutil.rmtree(picks.one_of(self.hosts).cache, ignore_errors=True)

    # --- runs -------------------------------------------------------------------------------

    def _store(self, step: Step, picks: Picks) -> Held | None:
        """A run up to its commit, if it gets there."""
        domain, host = picks.one_of("abc"), picks.one_of(self.hosts)
        mine = sorted(name for name in self.certain if self.points[name].domain == domain)
        last = self.points[picks.one_of(mine)] if mine else None
        parent, compared = picks.one_of([(last, None), (last, None), (None, last), (None, None)])
        before = self.certain[parent.point] if parent else None
        dirty, title = {picks.number(CHUNKS)}, picks.one_of("xy")
        moment = MOMENT + timedelta(seconds=next(self._taken)) + host.skew
        disk = list(self.disks[domain])
        with self._on(host):
            process, repository = self._open(step)
            try:
                backup = back_up(
                    repository,
                    domain,
                    disk,
                    parent,
                    before,
                    title,
                    moment,
                    dirty,
                    host.name,
                    compared=compared,
                )
            except (Died, StoreError):
                return None
            except DamagedData:
                assert parent is not None, "a full needs no map, and neither does a rehash"
                assert parent.point not in self.certain, "a map of a point that stands cannot be read"
                return None
        return Held(host, process, backup)

    def _publish(self, held: Held) -> None:
        point = held.backup.point
        self.points[point.point] = point
        self.possible[point.point] = held.backup.disk
        for pruning in self.prunes:
            pruning.pool.add(point.point)
        with self._on(held.host):
            try:
                held.backup.commit()
            except Overtaken:
                del self.possible[point.point]
            except (Died, StoreError):
                pass
            else:
                self._trust(point.point)

    # --- the world --------------------------------------------------------------------------

    @contextmanager
    def _on(self, host: Host) -> Iterator[None]:
        outer, self.host = self.host, host
        os.environ["PULLER_CACHE_DIR"] = str(host.cache)
        try:
            yield
        finally:
            self.host = outer
            os.environ["PULLER_CACHE_DIR"] = str(outer.cache)

    def uptime(self) -> float:
        """The clock of the host that is at work."""
        return self.host.uptime(self.scene.world.now)

    def _open(self, step: Step) -> tuple[ShakyProcess, Repository]:
        process = ShakyProcess(self.scene.world)
        self._arrange(process, step)
        return process, Repository(process, self.scene.template.descriptor, self.scene.template.keys)

    def _arrange(self, process: ShakyProcess, step: Step) -> None:
        turns = TURNS[step.action]
        if step.failure is not None:
            turn, failure = step.failure
            delay = (step.picks[-1] % 4) * LATEST / 3
            process.failures[process.turn + turn % turns] = failure, delay
        if step.during is not None:
            turn, others = step.during
            process.pauses[process.turn + turn % turns] = lambda: self._meanwhile(others)

    def _meanwhile(self, others: Sequence[Step]) -> None:
        napped = False
        for other in others:
            if not (napped and other.action == "wait"):
                self.play(other)
            napped |= other.action == "wait"

    # --- the model --------------------------------------------------------------------------

    def _doubt(self, point_id: str) -> None:
        self.possible[point_id] = self.certain.pop(point_id)

    def _trust(self, point_id: str) -> None:
        # It may have been deleted by others before its run could hear that it was committed.
        if point_id in self.possible and not self._is_disputed(point_id):
            self.certain[point_id] = self.possible.pop(point_id)

    def _is_disputed(self, point_id: str) -> bool:
        return self._may_go(point_id) or point_id not in self._names()

    def _resolve(self) -> None:
        """What is possible is certain or gone when no request for it is on its way any more."""
        late = {item.key for item in self.scene.world.late}
        names = self._names()
        for point_id in list(self.possible):
            if object_name(self.points[point_id].uuid, point_id) not in late:
                disk = self.possible.pop(point_id)
                if point_id in names:
                    self.certain[point_id] = disk

    def _names(self) -> set[str]:
        prefix = "points/"
        return {name.rpartition("/")[2] for name in self.scene.world.names(prefix)}

    def _may_go(self, point_id: str) -> bool:
        """Whether a prune that is at work may remove it."""
        if point_id in self.held:
            return False
        point = self.points[point_id]
        return any(
            pruning.last
            and pruning.last <= sum(self._follows(self.points[other], point) for other in pruning.pool)
            for pruning in self.prunes
        )

    @staticmethod
    def _follows(other: Point, point: Point) -> bool:
        return (other.domain, other.host) == (point.domain, point.host) and other.time > point.time

    def _excuse(self, names: set[str]) -> None:
        for point_id in [name for name in self.certain if name not in names and self._may_go(name)]:
            self._doubt(point_id)

    def verify(self) -> None:
        """Each certain point is there, and each point that is there is whole. Raises AssertionError."""
        names = self._names()
        self._excuse(names)
        missing = self.certain.keys() - names
        assert not missing, f"points are gone: {missing}"
        strange = names - self.certain.keys() - self.possible.keys()
        assert not strange, f"points that should not be: {strange}"
        harmed, self.harm = self.harm != self.scene.world.harm, self.scene.world.harm
        self._require_whole(names if harmed else names - self.seen)
        self.seen |= names
        if harmed:
            misleading = misleading_index(self.scene.open()[1])
            assert not misleading, f"the index offers what is not there: {misleading}"

    def _require_whole(self, names: set[str]) -> None:
        repository = self.scene.open()[1]
        expected = self.certain | self.possible
        for name in sorted(names):
            assert is_whole(repository, self.points[name], expected[name]), f"{name} does not restore"


# --- histories --------------------------------------------------------------------------------


class Names:
    """Names that are the same each time, in place of random ones: they decide orders."""

    def __init__(self) -> None:
        self._count = count()

    def bytes(self, length: int) -> bytes:
        return hashlib.shake_128(b"%d" % next(self._count)).digest(length)

    def hex(self, length: int) -> str:
        return self.bytes(length).hex()


PAGED = (
    "units",
    "repository.reading.image",
    "repository.reading.damage",
    "repository.reading.parent",
    "repository.format.pages",
    "repository.writing.diskmap",
    "repository.collecting.reach",
    "upkeep.checking.attribution",
)


def play(history: Sequence[Step], folder: Path) -> None:
    """Play a history from an empty repository to the end. Raises AssertionError where an invariant fails.

    ``folder`` holds the hosts' caches; it is deleted.
    """
    with pytest.MonkeyPatch.context() as patch:
        _shrink(patch)
        simulation = Simulation(Scene.new(), folder)
        for module in ("writing.claims", "collecting.lease"):
            patch.setattr(f"puller.repository.{module}._now", simulation.uptime)
        try:
            for step in history:
                simulation.play(step)
            simulation.finish()
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _shrink(patch: pytest.MonkeyPatch) -> None:
    names = Names()
    patch.setenv("PULLER_CACHE_DIR", "")
    patch.setattr("secrets.token_hex", names.hex)
    patch.setattr("puller.repository.writing.packing.os", SimpleNamespace(urandom=names.bytes))
    # One pack of each kind a run, so that the run's threads never store while others act.
    patch.setattr("puller.repository.writing.run.DATA_PACK", 600 * KIB)
    patch.setattr("puller.repository.writing.run.MAP_PACK", 600 * KIB)
    patch.setattr("puller.store.parallel.all_together", InSomeOrder().do_all)
    for module in PAGED:
        patch.setattr(f"puller.{module}.PAGE_CHUNKS", PAGE)
