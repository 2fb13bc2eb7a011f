"""Times and durations, for programs and for people."""

from __future__ import annotations

from datetime import UTC, datetime

from puller.units import format_age


def rfc3339(moment: datetime) -> str:
    """Return a time such as ``2026-11-23T05:00:00Z``: UTC, with a fraction only if it has one."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def local(moment: datetime) -> str:
    """Return a time such as ``2026-11-23 06:00:00`` in this host's time zone."""
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S}"


def utc(moment: datetime) -> str:
    """Return a time such as ``2026-11-23 05:00 UTC``, for an end that holds on all hosts."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def age(moment: datetime, now: datetime) -> str:
    """Return the age in the largest unit that fits, such as ``3 h``. A future time counts as now."""
    return format_age(now - moment)


def duration(seconds: float) -> str:
    """Return a duration such as ``0.8 s``, ``12 s``, ``4 min 10 s`` or ``2 h 5 min``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
