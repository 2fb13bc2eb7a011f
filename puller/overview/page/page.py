"""The report as one self-contained HTML page: scripts, styles and pictures are inside it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import jinja2

from puller.overview.page.strip import bars, heat, strip
from puller.overview.report import MachineReport, Report, distinct
from puller.units import GIB, format_age, format_bytes

TITLE = "Backups"
"""The page's heading, unless somebody chooses another."""

_SPARK, _CHART = 18, 60
_LONG_AGO = timedelta(days=30)


def render(report: Report, title: str, version: str, price: float | None = None, currency: str = "") -> str:
    """Return the page of puller's ``version``. ``price`` is what a GiB costs in a month, in ``currency``."""
    return _template().render(
        report=report,
        title=title,
        version=version,
        rows=[_row(machine, report.generated) for machine in report.machines],
        tiles=_tiles(report),
        growth=_growth(report),
        wrong=[(one, alarm) for one in report.machines for alarm in reversed(one.alarms)],
        price=price,
        currency=currency,
    )


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("puller.overview", "page"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"bytes": format_bytes, "utc": _utc, "day": _day, "cost": _cost}
    return environment.get_template("page.html")


def _row(machine: MachineReport, now: datetime) -> dict[str, Any]:
    """The content of a table row; ``*_key`` are its sort keys."""
    status, volume = machine.status, machine.volume
    changes = [day.changed_bytes for day in machine.days]
    active = [change for change in changes if change]
    return {
        "status": status,
        "volume": volume,
        "wrong": bool(machine.alarms),
        "age": format_age(now - status.last_time),
        "proven": "never" if status.proven_time is None else format_age(now - status.proven_time),
        "proven_key": 0 if status.proven_time is None else round(status.proven_time.timestamp()),
        "change": sum(active) // len(active) if active else 0,
        "copied": sum(day.copied for day in machine.days),
        "strip": strip(machine.days),
        "bars": bars(changes, _SPARK),
        "places": [(places.disk, heat(places)) for places in machine.places if any(places.changed)],
        "lock": machine.lock,
    }


def _tiles(report: Report) -> list[tuple[str, str, bool]]:
    """The numbers at the top: value, meaning, and whether it is bad."""
    machines, late = report.machines, distinct(report.late)
    recent = distinct(one.status for one in machines if _is_recent(one.status.proven_time, report.generated))
    wrong = distinct(one.status for one in machines if one.alarms)
    silent = sum(host.is_silent for host in report.hosts)
    failed = distinct(one.status for one in machines if one.status.verdict == "failed")
    locked = [one for one in machines if one.lock is not None]
    ending = distinct(one.status for one in locked if one.lock is not None and one.lock.ends_soon)
    locks = [(str(ending), "whose locks end soon", ending > 0)] if locked else []
    return [
        (str(distinct(one.status for one in machines)), "machines", False),
        (str(late), "late", late > 0),
        (str(silent), "silent hosts", silent > 0),
        (str(wrong), "that look wrong", wrong > 0),
        (str(recent), "with a proven point from the last 30 days", False),
        (str(failed), "whose last drill failed", failed > 0),
        *locks,
        (format_bytes(sum(repository.stored for repository in report.repositories)), "stored", False),
    ]


def _is_recent(moment: datetime | None, now: datetime) -> bool:
    return moment is not None and now - moment <= _LONG_AGO


def _growth(report: Report) -> list[dict[str, Any]]:
    """The bytes that the points of each repository added on each day, as bars on a common scale."""
    added = [_added(report, repository.url) for repository in report.repositories]
    most = max(map(max, added), default=0)
    return [
        {
            "repository": repository,
            "bars": bars(values, _CHART, most),
            "most": max(values),
            "sum": sum(values),
        }
        for repository, values in zip(report.repositories, added, strict=True)
    ]


def _added(report: Report, url: str) -> list[int]:
    machines = [one for one in report.machines if one.status.repository == url]
    return [sum(one.days[number].stored_bytes for one in machines) for number in range(len(report.days))]


def _utc(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _day(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d}"


def _cost(size: int, price: float) -> str:
    return f"{size / GIB * price:,.2f}"
