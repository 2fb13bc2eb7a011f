"""``puller report``."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from puller import __version__
from puller.cli.commands.status import ALSO, EXCLUDE, open_all
from puller.cli.input.options import Command, hosts_option
from puller.cli.output.outcome import Outcome
from puller.cli.output.results import machines
from puller.cli.output.settings import Settings
from puller.cli.output.times import rfc3339
from puller.errors import DamagedData, UsageError
from puller.units import format_bytes

if TYPE_CHECKING:
    from puller.overview.report import MachineReport, Report

_DAYS = 90


@click.command("report", cls=Command)
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="Write the page to FILE.")
@click.option(
    "--days",
    type=click.IntRange(1, 400),
    default=_DAYS,
    metavar="N",
    help=f"Show the last N days.  [default: {_DAYS}]",
)
@click.option(
    "--title", default="Backups", metavar="TEXT", help="Set the page's heading to TEXT.  [default: Backups]"
)
@click.option(
    "--price",
    metavar="'AMOUNT [CURRENCY]'",
    help="Also show the monthly cost of what the existing points of each repository added when they were "
    "taken, at this price per GiB (for example '0.023 USD').",
)
@hosts_option("Show only machines whose newest point was taken by HOST: a name, or a pattern such as 'kvm*'.")
@EXCLUDE
@ALSO
@click.pass_obj
def command(  # noqa: PLR0913, PLR0917 - one parameter for each choice that a user has
    settings: Settings,
    html: Path | None,
    days: int,
    title: str,
    price: str | None,
    hosts: tuple[str, ...],
    exclude: tuple[str, ...],
    also: tuple[str, ...],
) -> Outcome:
    """Write a page about all machines.

    The page is one HTML file that needs no network. Its data comes from the repositories alone.
    """
    if html is None and not settings.json:
        raise UsageError("report needs --html FILE or --json", advice="Name the file for the page.")
    amount, currency = _price(price)
    repositories = open_all(settings, also)
    from puller import api

    damaged: list[DamagedData] = []
    found = api.report(
        repositories,
        days=days,
        hosts=hosts,
        exclude=exclude,
        thresholds=settings.configure().alarms,
        damaged=lambda _, error: damaged.append(error),
    )
    if html is not None:
        from puller.overview.page.page import render
        from puller.overview.page.writing import replace_page

        replace_page(html, render(found, title, __version__, amount, currency))
    return Outcome(document(found), text(found, html), damaged[0] if damaged else None)


def document(report: Report) -> dict[str, Any]:
    """Return what the page shows."""
    return {
        "generated": rfc3339(report.generated),
        "days": [day.isoformat() for day in report.days],
        "domains": [_machine(machine) for machine in report.machines],
        "hosts": [
            {
                "host": host.host,
                "machines": host.machines,
                "late": host.late,
                "silent": host.is_silent,
                "last_time": rfc3339(host.last_time),
            }
            for host in report.hosts
        ],
        "repositories": [
            {"repository": one.url, "machines": one.machines, "points": one.points, "added_bytes": one.stored}
            for one in report.repositories
        ],
    }


def _machine(machine: MachineReport) -> dict[str, Any]:
    volume = machine.volume
    return {
        **machines.document(machine.status),
        "points": volume.points,
        "logical_bytes": volume.size,
        "added_bytes": volume.stored,
        "new_bytes": volume.new,
        "read_bytes": volume.read,
        "alarms": [
            {"point": alarm.point, "sign": alarm.sign, "text": alarm.text} for alarm in machine.alarms
        ],
        "locked_until": None if machine.lock is None else rfc3339(machine.lock.until),
        "lock_ends_soon": machine.lock is not None and machine.lock.ends_soon,
        "places": [
            {
                "disk": one.disk,
                "part_bytes": one.part_bytes,
                "comparisons": one.pairs,
                "changed": list(one.changed),
            }
            for one in machine.places
        ],
        "states": [day.state for day in machine.days],
        "proven": [number for number, day in enumerate(machine.days) if day.proven],
        "failed": [number for number, day in enumerate(machine.days) if day.failed],
        "copied": [number for number, day in enumerate(machine.days) if day.copied],
        "stored_bytes": [day.stored_bytes for day in machine.days],
        "dirty_bytes": [day.changed_bytes for day in machine.days],
    }


def text(report: Report, html: Path | str | None) -> str:
    """Return the sums of the page, after its file."""
    from puller.overview.report import distinct

    count, late = distinct(one.status for one in report.machines), distinct(report.late)
    stored = format_bytes(sum(one.stored for one in report.repositories))
    return f"{html}: {count} machines, {late} late, {stored} stored"


def _price(text: str | None) -> tuple[float | None, str]:
    if text is None:
        return None, ""
    amount, _, currency = text.strip().partition(" ")
    with suppress(ValueError):
        if 0 <= float(amount) < float("inf"):
            return float(amount), currency.strip()
    raise UsageError(f"invalid price '{text}'", advice="Use a number and a currency, such as '0.023 USD'.")
