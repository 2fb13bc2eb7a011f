"""The times of a new point: the host's clock, and what is done where that cannot be right.

A point has two. Its id, and so the name of its checkpoint, begins with the second in which its run was about
to begin the job. Its ``time`` is just after the job has begun, when the disks were frozen: an agent may take
40 s in between, and what the guest writes then is in the point. (libvirt's ``creationTime`` of the
checkpoint is of no use for that: it is the second in which libvirt was asked, before QEMU froze anything.)

Restore points are ordered, chosen and kept by ``time``. A point that is dated before an older one would
be taken for old, and might be removed before its time; so it is never dated so, nor at the same moment.
"""

from __future__ import annotations

import platform
from datetime import UTC, datetime, timedelta

from puller.backups.bases.history import History
from puller.errors import RepositoryError
from puller.events import Notice, Observer
from puller.repository.points import AHEAD
from puller.repository.repository import Repository

APART = timedelta(minutes=15)
"""From here on it is told that the clocks of host and store differ. AWS refuses requests then."""


def next_moment(repository: Repository, uuid: str, name: str, observer: Observer) -> datetime:
    """The earliest time that a point of the domain can be given now: after those of all that are there.

    Where the host's clock is behind these it is the second after the newest, and the user is told.
    Raises RepositoryError if it is behind by more than a day, StoreError.
    """
    now = datetime.now(UTC)
    newest = _newest(History(repository, uuid), now)
    if newest is None or now > newest:
        return now
    said, dated = (f"{moment:%Y-%m-%d %H:%M:%S} UTC" for moment in (now, newest))
    text = f"the clock of this host says {said}, but the newest point of {name} is dated {dated}"
    if newest - now > AHEAD:
        advice = "Set the clock; if the point's time is wrong, delete such points with 'puller delete'."
        raise RepositoryError(text, advice=advice)
    observer(Notice(name, f"{text}: the new one is dated a second later"))
    return newest + timedelta(seconds=1)


def _newest(history: History, now: datetime) -> datetime | None:
    """When the newest point was taken that can be read; None if there is none.

    What cannot be read has a time in its name only, which anybody may have given it. And what the clock of
    another host has dated days ahead is not for this one to set right.
    """
    usual = (point.time for point in history if point.host == platform.node() or point.time - now <= AHEAD)
    return next(usual, None)


def compare(ahead: float, name: str, observer: Observer) -> None:
    """Tell if the host's clock is ``ahead`` of the store's, or behind it, by much; in seconds."""
    if abs(ahead) > APART.total_seconds():
        how = "ahead of" if ahead > 0 else "behind"
        text = f"the clock of this host is {timedelta(seconds=round(abs(ahead)))} {how} that of the store"
        observer(Notice(name, f"{text}: points are dated by the host's"))
