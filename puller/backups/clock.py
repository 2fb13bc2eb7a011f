"""The times of a new point, and corrections if the host's clock is wrong.

A point has two times. Its id, and so the name of its checkpoint, begins with the second just before the job
begins. Its ``time`` is just after the job has begun, when the disks were frozen: the guest agent may take
long in between, and the guest's writes meanwhile are in the point. (libvirt's ``creationTime`` of the
checkpoint cannot be used for that: it is the second of the request, before QEMU froze anything.)

Restore points are ordered, chosen and kept by ``time``. A point dated before an older one would count as
old, and prune might remove it too early. So a new point is always dated after all older ones.
"""

from __future__ import annotations

import platform
from datetime import UTC, datetime, timedelta

from puller.backups.bases.history import History
from puller.errors import RepositoryError
from puller.events import Notice, Observer
from puller.repository.points import AHEAD

APART = timedelta(minutes=15)
"""Difference between the clocks of host and store from which puller warns. AWS refuses requests then."""


def next_moment(history: History, name: str, observer: Observer, host: str | None = None) -> datetime:
    """Return the earliest time for a new point of the domain: after the times of all in its ``history``.

    ``host`` is the host of the domain, by default this one: its points count whatever they are dated.

    If the host's clock is behind these, it is the second after the newest, with a notice.
    Raises RepositoryError if the clock is behind by more than a day, StoreError.
    """
    now = datetime.now(UTC)
    newest = _newest(history, now, host or platform.node())
    if newest is None or now > newest:
        return now
    said, dated = (f"{moment:%Y-%m-%d %H:%M:%S} UTC" for moment in (now, newest))
    text = f"the clock of this host says {said}, but the newest point of {name} is dated {dated}"
    if newest - now > AHEAD:
        advice = "Set the clock; if the point's time is wrong, delete such points with 'puller delete'."
        raise RepositoryError(text, advice=advice)
    observer(Notice(name, f"{text}: the new point is dated one second later"))
    return newest + timedelta(seconds=1)


def _newest(history: History, now: datetime, host: str) -> datetime | None:
    """Return the time of the newest readable point; None if there is none.

    An unreadable point has a time only in its name, which anybody may have chosen. And a point that another
    host's clock has dated days ahead must not affect this host.
    """
    usual = (point.time for point in history if point.host == host or point.time - now <= AHEAD)
    return next(usual, None)


def compare(ahead: float, name: str, observer: Observer) -> None:
    """Warn if the host's clock is far ahead of the store's or behind it; ``ahead`` is in seconds."""
    if abs(ahead) > APART.total_seconds():
        how = "ahead of" if ahead > 0 else "behind"
        text = f"the clock of this host is {timedelta(seconds=round(abs(ahead)))} {how} that of the store"
        observer(Notice(name, f"{text}: points are dated by the host's clock"))
