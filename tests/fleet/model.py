"""What truly happened to a fleet: each point's content, and what each repository has to hold and to say.

Nothing here uses puller's own retention, calendar or report.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any

from puller.repository.points import Point, object_name
from puller.repository.records.proofs import Proof, Proofs
from tests.lab.history import Disk
from tests.lab.simulated import World

DAY = timedelta(days=1)
LATE = timedelta(hours=30)
"""A nightly machine is late after a day and a quarter of one."""


Drills = dict[str, list[tuple[str, Proof]]]
"""By machine, each point that was drilled and the verdict, in order."""


@dataclass(frozen=True)
class Rules:
    """How many days, weeks and months keep their newest point. ``job`` and ``host`` say whose points."""

    daily: int
    weekly: int
    monthly: int
    job: str | None = None
    host: str | None = None

    def cover(self, point: Point) -> bool:
        is_own = self.job is None or point.tags.get("job") == self.job
        return is_own and self.host in {None, point.host}

    def keep(self, points: Iterable[Point]) -> set[str]:
        """The ids of the points that have to stay; the others have to go."""
        machines: dict[tuple[str, str], list[Point]] = {}
        kept = set()
        for point in points:
            if self.cover(point):
                machines.setdefault((point.uuid, point.host), []).append(point)
            else:
                kept.add(point.point)
        for found in machines.values():
            for count, period in ((self.daily, _day), (self.weekly, _week), (self.monthly, _month)):
                newest = {period(point.time): point.point for point in sorted(found, key=_when)}
                kept |= {newest[name] for name in sorted(newest)[-count:]}
        return kept


@dataclass
class Ledger:
    """The truth about one repository.

    ``ever`` are the points that were in it, ``certain`` those that have to be, ``possible`` those that may
    be: a request for them has not been answered. ``held`` points may never go.
    """

    world: World
    ever: dict[str, Point] = field(default_factory=dict)
    certain: set[str] = field(default_factory=set)
    possible: dict[str, Point] = field(default_factory=dict)
    held: set[str] = field(default_factory=set)
    drills: Drills = field(default_factory=dict)
    doubtful_drills: Drills = field(default_factory=dict)

    @property
    def names(self) -> set[str]:
        """The points that are there."""
        return {name.rpartition("/")[2] for name in self.world.names("points/")}

    @property
    def present(self) -> list[Point]:
        """The points that are there, oldest first."""
        known = self.ever | self.possible
        return sorted((known[name] for name in self.names), key=_when)

    def may_appear(self, point: Point) -> None:
        self.possible[point.point] = point

    def has_appeared(self, point: Point) -> None:
        self.possible.pop(point.point, None)
        self.ever[point.point] = point
        self.certain.add(point.point)

    def settle(self) -> None:
        """What no request is on its way for is there or is not."""
        late = {item.key for item in self.world.late}
        names = self.names
        for name, point in list(self.possible.items()):
            if name in names:
                self.ever[name] = point
            if object_name(point.uuid, name) not in late:
                del self.possible[name]
                if name in names:
                    self.certain.add(name)

    def faults(self) -> list[str]:
        """Points that are gone, and points that nobody took."""
        self.settle()
        names = self.names
        gone = sorted(self.certain - names)
        strange = sorted(names - self.certain - self.possible.keys())
        return [f"{name} is gone" for name in gone] + [f"{name} was never taken" for name in strange]

    def pruned(self, rules: Rules, before: list[Point], *, succeeded: bool, alone: bool) -> list[str]:
        """Note what a prune by ``rules`` may have removed of what was there ``before``; return its faults."""
        self.settle()
        names = self.names
        since = {name: point for name, point in self.ever.items() if name in names}
        pool = {point.point: point for point in before} | since
        stay = rules.keep(pool.values()) | self.held
        removed = self.certain & stay - names  # others may have pruned theirs meanwhile
        found = [f"prune removed {name}" for name in sorted(removed & {point.point for point in before})]
        for point in before:
            if point.point not in stay and point.point in self.certain:
                self.certain.discard(point.point)
                if not (succeeded and alone):  # it may not have seen the newer points that displace this one
                    self.possible[point.point] = point
        if succeeded and alone:
            found += [f"prune left {name}" for name in sorted(names - stay - self.possible.keys())]
        return found

    def settle_drills(self, proofs: Proofs) -> None:
        """A verdict whose storing was not answered counts once it is there."""
        stored = proofs.newest()
        for uuid, doubtful in self.doubtful_drills.items():
            for item in list(doubtful):
                if stored.get((uuid, item[0])) == item[1]:
                    doubtful.remove(item)
                    self.drills.setdefault(uuid, []).append(item)
                    self.drills[uuid].sort(key=lambda drill: drill[1].time)

    def proof_of(self, point: Point) -> Proof | None:
        """The newest verdict on it."""
        proofs = [proof for name, proof in self.drills.get(point.uuid, []) if name == point.point]
        return proofs[-1] if proofs else None

    def machine(self, uuid: str) -> list[Point]:
        """Its points that are there, oldest first."""
        return [point for point in self.present if point.uuid == uuid]

    def gaps(self, uuid: str, now: datetime) -> list[tuple[Point, Point | None]]:
        """Each of the machine's points there ever were and the next one; None for the newest."""
        taken = sorted((point for point in self.ever.values() if point.uuid == uuid), key=_when)
        return [*pairwise(taken), *((point, None) for point in taken[-1:])]


def late_days(begin: datetime, end: datetime) -> set[date]:
    """The days on which a machine was late that had a backup at ``begin`` and the next one at ``end``."""
    first = begin + LATE
    return (
        {_day(first) + DAY * number for number in range((_day(end) - _day(first)).days + 1)}
        if first < end
        else set()
    )


def wrong_cells(
    ledger: Ledger, other: Ledger, entry: Mapping[str, Any], days: list[date], now: datetime
) -> list[str]:
    """What the ``days`` of a machine in a report say that is not so."""
    uuid = entry["uuid"]
    here = ledger.machine(uuid)
    elsewhere = other.names
    said = dict(zip(days, entry["states"], strict=True))
    kept = {_day(point.time) for point in here}
    taken = {_day(point.time) for point in ledger.ever.values() if point.uuid == uuid}
    late, must_be_late, must_be_gone = set[date](), set[date](), set[date]()
    names = {point.point for point in here}
    for before, after in ledger.gaps(uuid, now):
        missed = late_days(before.time, now if after is None else after.time)
        late |= missed
        if after is None or after.point in names:
            must_be_late |= missed - taken
            must_be_gone |= {_day(before.time)} - kept
    found = []
    for day, state in said.items():
        expected = (
            {"kept"}
            if day in kept
            else {"gone"}
            if day in must_be_gone
            else {"late"}
            if day in must_be_late
            else {"unknown", *(["gone"] if day in taken else []), *(["late"] if day in late else [])}
        )
        if state not in expected:
            found.append(f"{day} is {state}, not {' or '.join(sorted(expected))}")
    verdicts = {
        day: {
            proof.verdict for point in here if _day(point.time) == day and (proof := ledger.proof_of(point))
        }
        for day in kept
    }
    marks = {
        "proven": {day for day in kept if "proven" in verdicts[day]},
        "failed": {day for day in kept if "failed" in verdicts[day]},
        "copied": {_day(point.time) for point in here if point.point in elsewhere},
    }
    for name, true in marks.items():
        shown = {days[number] for number in entry[name]}
        found += [
            f"{day} is {'not ' if day in true else ''}{name}" for day in sorted(shown ^ true & set(days))
        ]
    changed = [
        sum(
            disk.dirty_bytes
            for point in here
            if _day(point.time) == day
            for disk in point.disks
            if disk.kind == "incremental"
        )
        for day in days
    ]
    if entry["dirty_bytes"] != changed:
        found.append(f"changed {entry['dirty_bytes']}, not {changed}")
    return found


def wrong_status(ledger: Ledger, entry: Mapping[str, Any], first: date, now: datetime) -> list[str]:
    """What a report says of a machine's state that is not so."""
    here = ledger.machine(entry["uuid"])
    newest = here[-1]
    proven = [point for point in here if (proof := ledger.proof_of(point)) and proof.verdict == "proven"]
    drills = ledger.drills.get(newest.uuid, [])
    true = {
        "domain": newest.domain,
        "host": newest.host,
        "last_point": newest.point,
        "late": now - newest.time > LATE,
        "interval": 86400,
        "points": len(here),
        "proven_point": proven[-1].point if proven else None,
        "verdict": drills[-1][1].verdict if drills else None,
        "alarms": alarms(here, first),
    }
    told = {**entry, "alarms": {alarm["point"] for alarm in entry["alarms"]}}
    return [f"{name} is {told[name]}, not {value}" for name, value in true.items() if told[name] != value]


def alarms(points: list[Point], first: date) -> set[str]:
    """Points of which much more changed than in any of the 30 before: at least 7 have to be known.

    Only the host's own points are compared, if it has some.
    """
    found = set()
    for number, point in enumerate(points):
        before = points[max(0, number - 30) : number]
        own = [one for one in before if one.host == point.host] or before
        usual = [one.disks[0].dirty_bytes for one in own if one.kind == "incremental"]
        changed, size = point.disks[0].dirty_bytes, point.disks[0].size
        is_shown = _day(point.time) >= first and point.kind == "incremental"
        if is_shown and len(usual) >= 7 and changed > max(3 * max(usual), size / 5):
            found.add(point.point)
    return found


def _when(point: Point) -> tuple[datetime, str]:
    return point.time, point.point


def _day(moment: datetime) -> date:
    return moment.astimezone(UTC).date()


def _week(moment: datetime) -> tuple[int, int]:
    return _day(moment).isocalendar()[:2]


def _month(moment: datetime) -> tuple[int, int]:
    return _day(moment).year, _day(moment).month


Contents = dict[str, Disk]
"""What each point holds, whichever repository has it."""
