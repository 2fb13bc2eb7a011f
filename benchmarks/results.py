"""What a run found, round by round, and how it is kept."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benchmarks.cost import Cost
from benchmarks.disk import Layout
from benchmarks.facts import Facts
from benchmarks.impact import Latencies
from benchmarks.roofline import Roofline, cores
from benchmarks.tools import version

_TOOLS = ("nbdcopy", "zstd", "rclone", "restic")


class Spread(NamedTuple):
    """Median and extremes of what the rounds found."""

    median: float
    low: float
    high: float


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest of the values that so many per cent of them do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def spread(values: Iterable[float]) -> Spread | None:
    """None of nothing."""
    found = list(values)
    return Spread(median(found), min(found), max(found)) if found else None


@dataclass(slots=True)
class Round:
    """``costs`` by work and contestant, ``impact`` by scene and phase."""

    costs: dict[str, dict[str, Cost]] = field(default_factory=dict)
    roofline: Roofline | None = None
    impact: dict[str, dict[str, Latencies]] = field(default_factory=dict)

    def meets(self, other: Round) -> bool:
        """Whether both have figures of the same thing."""
        same = self.costs.keys() & other.costs.keys()
        return bool(same or (self.roofline and other.roofline) or (self.impact and other.impact))

    def add(self, other: Round) -> None:
        """Take in a round that has other things."""
        self.costs |= other.costs
        self.roofline = self.roofline or other.roofline
        self.impact = self.impact or other.impact


@dataclass(slots=True)
class Results:
    """Of a whole run."""

    layout: Layout
    allocated: int
    machine: dict[str, str]
    facts: Facts = field(default_factory=dict)
    rounds: list[Round] = field(default_factory=list)

    def costs(self, work: str, contestant: str) -> list[Cost]:
        """One for each round that has it."""
        found = (round_.costs.get(work, {}).get(contestant) for round_ in self.rounds)
        return [cost for cost in found if cost is not None]

    def add(self, round_: Round) -> None:
        """Join it with the first round that has none of its figures; without such a one it is a new round."""
        for known in self.rounds:
            if not known.meets(round_):
                known.add(round_)
                return
        self.rounds.append(round_)

    def save(self, path: Path) -> None:
        """Write all of it as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    def impact(self, scene: str, phase: str) -> list[Latencies]:
        """One for each round that has it."""
        found = (round_.impact.get(scene, {}).get(phase) for round_ in self.rounds)
        return [latencies for latencies in found if latencies is not None]

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read what ``save`` has written."""
        document = json.loads(path.read_text())
        rounds = [_round(each) for each in document["rounds"]]
        facts = {step: (one, all_) for step, (one, all_) in document.get("facts", {}).items()}
        return cls(Layout(**document["layout"]), document["allocated"], document["machine"], facts, rounds)


def _round(document: dict[str, Any]) -> Round:
    costs = {
        work: {name: Cost(**cost) for name, cost in contestants.items()}
        for work, contestants in document["costs"].items()
    }
    roofline = document["roofline"] and Roofline(**document["roofline"])
    impact = {
        scene: {name: Latencies(each["wall"], tuple(each["requests"])) for name, each in phases.items()}
        for scene, phases in document["impact"].items()
    }
    return Round(costs, roofline, impact)


def machine() -> dict[str, str]:
    """What the figures were measured on and with."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    tools = {"virtnbdbackup": "virtnbdbackup", "QEMU": "qemu-img"} | {name: name for name in _TOOLS}
    versions = {name: version(tool) for name, tool in tools.items()}
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "processor": _processor(),
        "cores": str(cores()),
        "memory": f"{memory / (1 << 30):.0f} GiB",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load before": f"{os.getloadavg()[0]:.1f}",
        **versions,
    }


def _processor() -> str:
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else platform.machine()
