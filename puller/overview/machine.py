"""What is known of one machine: its points by time, its drills, and whether it is late. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from puller.overview.interval import Interval, interval_of, is_late
from puller.repository.points import AHEAD, Point
from puller.repository.records.proofs import Proof
from puller.repository.selection import JOB_TAG


@dataclass(frozen=True, slots=True)
class MachineStatus:
    """A machine, which is one UUID in one repository.

    Attributes:
        domain: The domain's name in its newest point.
        uuid: The domain's UUID.
        host: The host that took the newest point.
        repository: URL of the repository.
        job: The job that took the newest point; empty if none did.
        last_point: The id of the newest point.
        last_time: When that point was frozen.
        interval: How often the machine is backed up; None if it has too few points to tell.
        late: Whether it should have had a newer point by now.
        last_proof: When its last restore drill ended; None without one.
        verdict: The verdict of that drill.
        proven_point: The id of the newest point that a drill has proven; None without one.
        proven_time: When that point was frozen.
    """

    domain: str
    uuid: str
    host: str
    repository: str
    job: str
    last_point: str
    last_time: datetime
    interval: Interval | None
    late: bool
    last_proof: datetime | None = None
    verdict: str | None = None
    proven_point: str | None = None
    proven_time: datetime | None = None


def believable(points: Sequence[Point], now: datetime) -> Sequence[Point]:
    """Leave out points from after tomorrow, unless all are: a wrong clock dated them.

    The newest one would otherwise hide for as long that nothing has come since.
    """
    return [point for point in points if point.time <= now + AHEAD] or points


def machine_of(
    points: Sequence[Point], proofs: Mapping[str, Proof], repository: str, now: datetime
) -> MachineStatus:
    """Describe the machine that has ``points``, oldest first, at least one.

    ``proofs`` has the newest proof by point id, of points that are gone too.
    """
    newest = points[-1]
    interval = interval_of(points)
    drill = max(proofs.values(), key=lambda proof: proof.time, default=None)
    proven = next((point for point in reversed(points) if _is_proven(point, proofs)), None)
    return MachineStatus(
        newest.domain,
        newest.uuid,
        newest.host,
        repository,
        newest.tags.get(JOB_TAG, ""),
        newest.point,
        newest.time,
        interval,
        is_late(newest.time, interval, now),
        None if drill is None else drill.time,
        None if drill is None else drill.verdict,
        None if proven is None else proven.point,
        None if proven is None else proven.time,
    )


def _is_proven(point: Point, proofs: Mapping[str, Proof]) -> bool:
    proof = proofs.get(point.point)
    return proof is not None and proof.verdict == "proven"
