"""Hosts of a simulated fleet, their processes and timers."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NoReturn

from puller.configuration.job import Job
from tests.lab.simulated import Died, Process, ShakyProcess, World

BEGIN = datetime(2027, 1, 25, tzinfo=UTC)
LONG_AGO = datetime.min.replace(tzinfo=UTC)
NEVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Size:
    """How large a fleet is, and for how long it runs. The last host is lost for good on day ``lost_on``."""

    days: int
    domains: int
    hosts: int
    lost_on: int

    @property
    def names(self) -> list[str]:
        return ["alpha", "beta", "gamma", "delta"][: self.hosts]


SHORT = Size(days=10, domains=4, hosts=2, lost_on=5)
QUARTER = Size(days=91, domains=20, hosts=3, lost_on=70)


@dataclass
class Host:
    """A host with a cache of its own. It is down until ``back``, and gone if that is never."""

    name: str
    folder: Path
    jobs: dict[str, Job] = field(default_factory=dict)
    back: datetime = LONG_AGO
    processes: list[HostProcess] = field(default_factory=list)

    @property
    def cache(self) -> Path:
        return self.folder / self.name

    def die(self) -> None:
        """All that runs on it is dead at once."""
        for process in self.processes:
            process.kill()


class HostProcess(ShakyProcess):
    """The store ``name`` as a process on ``host`` sees it: what kills the process takes the host along."""

    def __init__(self, world: World, name: str, host: Host) -> None:
        super().__init__(world)
        self._name = name
        self._host = host
        host.processes.append(self)

    @property
    def url(self) -> str:
        return f"simulated:{self._name}"

    @property
    def is_dead(self) -> bool:
        return self._dead

    def kill(self) -> None:
        self._dead = True

    def die(self) -> NoReturn:
        self._host.die()
        raise Died


@dataclass(order=True)
class Timer:
    """Starts ``work`` on ``host`` at ``due``, and then each ``period``, a little late at random."""

    due: datetime
    number: int
    host: Host = field(compare=False)
    work: str = field(compare=False)
    period: timedelta = field(compare=False)
    jitter: timedelta = field(compare=False)


class Steady(Process):
    """The store as a process sees it that nothing befalls."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world)
        self._name = name

    @property
    def url(self) -> str:
        return f"simulated:{self._name}"
