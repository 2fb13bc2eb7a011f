"""The repository: whether it can be opened, and the age of a domain's last good point."""

from __future__ import annotations

import platform
from datetime import UTC, datetime, timedelta

from puller.diagnosis.finding import Answer, fail, ok, warn
from puller.errors import DamagedData, NoSuchPoint
from puller.repository.foreign import ADVICE, described, foreign
from puller.repository.format.names import SMALL_FOLDERS
from puller.repository.format.sealing import Cipher
from puller.repository.points import AHEAD, Point, newest_first
from puller.repository.repository import Repository

STALE = timedelta(hours=48)
"""Age of the last good point from which doctor warns: two nights were missed."""


def opened(repository: Repository) -> str:
    """Describe a repository that was opened."""
    if repository.keys.cipher is Cipher.NONE:
        return f"repository {repository.id} can be opened; it is not encrypted"
    role = "all" if repository.keys.can_read_data else "backups only"
    return f"repository {repository.id} can be opened; the key allows {role}"


def identity(repository: Repository) -> Answer:
    """Check that it is the repository that this host knows."""
    if repository.replaced is None:
        return ok("the repository is the one that this host knows at this URL")
    return warn(repository.replaced.text, repository.replaced.advice)


def foreign_objects(repository: Repository) -> Answer:
    """Check for foreign objects. Packs are too many to list for this."""
    keys = foreign(repository.store, SMALL_FOLDERS)
    return warn(described(keys), ADVICE) if keys else ok("all objects outside packs/ and maps/ are puller's")


class LastPoint:
    """The newest point of a domain with an intact record, and newer damaged ones.

    If several hosts took points, those of ``host`` count, by default this one: a copy of the domain on
    another host has the same UUID.
    """

    def __init__(self, repository: Repository, uuid: str, host: str | None = None) -> None:
        self._repository = repository
        self._uuid = uuid
        self.point: Point | None = None
        self.damaged: list[str] = []
        for point in newest_first((point_id for _, point_id in repository.points.names(uuid)), self._get):
            self.point = self.point or point
            if point.host == (host or platform.node()):
                self.point = point
                return

    def _get(self, point_id: str) -> Point | None:
        try:
            return self._repository.points.get(self._uuid, point_id)
        except NoSuchPoint:
            return None  # deleted since it was listed
        except DamagedData:
            self.damaged += [point_id] if self.point is None else []
            return None

    def answer(self) -> Answer:
        """Check that it exists, is intact and new enough."""
        if self.damaged:
            return fail(
                f"the record of point {self.damaged[0]} is damaged",
                "Run 'puller check' to see what is damaged, and back up the domain again.",
            )
        if self.point is None:
            return warn("the domain has no restore point", "Run 'puller backup' now.")
        return _aged(self.point, datetime.now(UTC) - self.point.time)


def _aged(point: Point, age: timedelta) -> Answer:
    hours = age.total_seconds() / 3600
    if age < -AHEAD:
        return fail(
            f"the last point, {point.point}, is dated {-hours:.0f} hours ahead of this host's clock",
            "Set the clock; if the point's time is wrong, delete it with 'puller delete'.",
        )
    text = f"the last point, {point.point}, is {hours:.0f} hours old"
    if age <= STALE:
        return ok(text)
    return warn(
        text, "Find out why backups do not run, for example in the journal of the timer, and run one now."
    )
