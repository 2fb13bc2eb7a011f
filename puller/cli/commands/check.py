"""``puller check``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from puller.cli.input.access import open_repository
from puller.cli.input.choices import shard_option
from puller.cli.input.options import OF_HOST, Command
from puller.cli.input.quantities import BUDGET, DURATION
from puller.cli.output.outcome import Outcome
from puller.cli.output.reporting.measures import CHECK
from puller.cli.output.reporting.progress import observing
from puller.cli.output.settings import Settings
from puller.cli.output.streams.console import printable
from puller.cli.output.times import local, rfc3339
from puller.errors import DamagedData
from puller.units import format_count

if TYPE_CHECKING:
    from puller.repository.shard import Shard
    from puller.upkeep.checking.check import CheckError, CheckReport
    from puller.upkeep.checking.coverage import Uncovered

_OPTION = "--read-data"
_NUMBER = re.compile(r"\d+(\.\d*)?%?")


def _percent(context: click.Context, parameter: click.Parameter, word: str | None) -> float:
    if word is None:
        return 0.0
    if not (_NUMBER.fullmatch(word) and 0 < float(word.removesuffix("%")) <= 100):
        raise click.BadParameter(f"'{word}' is not a percentage above 0 and at most 100", context, parameter)
    return float(word.removesuffix("%"))


class CheckCommand(Command):
    """Takes the word after ``--read-data`` as its value only if it is a number: else it is a POINT."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See click."""
        return super().parse_args(ctx, spell_out(args))


def spell_out(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with the default value of ``--read-data`` written out."""
    spelled = list(arguments)
    for place, word in enumerate(spelled):
        follower = spelled[place + 1] if place + 1 < len(spelled) else ""
        if word == "--":
            break
        if word == _OPTION and not _NUMBER.fullmatch(follower):
            spelled[place] = f"{_OPTION}=100"
    return spelled


@click.command("check", cls=CheckCommand)
@click.argument("points", nargs=-1, metavar="[POINT]...")
@click.option(
    _OPTION,
    callback=_percent,
    metavar="[PERCENT]",
    help="Also read and verify the stored data: all of it, or the PERCENT that was verified longest ago, so "
    "that the next check reads other data. Without it, only the structure is verified. If the next argument "
    "is a POINT that consists only of digits, write --read-data=100.",
)
@click.option(
    "--max-age",
    type=DURATION,
    metavar="DURATION",
    help="Read and verify all data that no check has verified for this long (for example 30d), the oldest "
    "first. Of all other data, verify only that it exists.",
)
@click.option(
    "--budget",
    type=BUDGET,
    metavar="DURATION|SIZE",
    help="Stop reading data after this time (for example 2h) or this many bytes (for example 500G). The next "
    "check continues with what was verified longest ago. With neither --max-age nor --read-data, all data is "
    "read.",
)
@shard_option("Verify only the packs of part I of N, so that N checks share the work.")
@OF_HOST
@click.pass_obj
def command(  # noqa: PLR0913, PLR0917 - one for each option
    settings: Settings,
    points: tuple[str, ...],
    read_data: float,
    max_age: timedelta | None,
    budget: timedelta | int | None,
    shard: Shard,
    hosts: tuple[str, ...],
) -> Outcome:
    """Verify restore points.

    Verify each POINT, or all points if none is given. The exit code is 0 if they are intact, and 13 if damage
    is found.

    POINT is an id, a unique prefix of one, DOMAIN@latest, or DOMAIN@TIME (the newest at or before TIME).
    """
    repository = open_repository(settings)
    from puller import api

    with observing(settings, CHECK) as observer:
        report = api.check(
            repository,
            points,
            hosts=hosts,
            read_data=read_data,
            max_age=max_age,
            budget=budget,
            shard=shard,
            observer=observer,
        )
    return Outcome(document(report), text(report), failure(report))


def document(report: CheckReport) -> dict[str, Any]:
    """Return the document of docs/cli.md."""
    oldest = report.oldest_verified
    return {
        **asdict(report),
        "errors": [asdict(error) for error in report.errors],
        "uncovered": [_uncovered(item) for item in report.uncovered],
        "oldest_verified": None if oldest is None else rfc3339(oldest),
    }


def _uncovered(item: Uncovered) -> dict[str, Any]:
    until = None if item.until is None else rfc3339(item.until)
    return {**asdict(item), "promised": rfc3339(item.promised), "until": until}


def text(report: CheckReport) -> str:
    """Return the report for people."""
    looked = f"points: {report.points}, packs: {report.packs}, chunks read: {report.chunks_read}"
    looked += f", packs verified: {report.packs_verified}"
    if report.packs_left:
        looked += f", packs left for the next check: {report.packs_left}"
    if report.oldest_verified is not None:
        looked += f", oldest verification: {local(report.oldest_verified)}"
    lines = [*map(_line, report.errors), *map(_uncovered_line, report.uncovered)]
    return "\n".join([*lines, f"{looked}; errors: {len(lines)}" if lines else f"{looked}; no errors"])


def _uncovered_line(item: Uncovered) -> str:
    end = "not locked" if item.until is None else f"locked only until {local(item.until)}"
    more = f" and {item.count - 1} more" if item.count > 1 else ""
    place = f"point {item.point}, domain {item.domain}"
    return printable(f"{place}: {item.needs}{more}: {end}, and should be until {local(item.promised)}")


def _line(error: CheckError) -> str:
    parts = [
        None if error.point is None else f"point {error.point}",
        None if error.domain is None else f"domain {error.domain}",
        None if error.disk is None else f"disk {error.disk}",
    ]
    if error.offset is not None and error.length is not None:
        parts.append(f"bytes {error.offset} to {error.offset + error.length - 1}")
    place = ", ".join(part for part in parts if part is not None)
    return printable(f"{place}: {error.message}" if place else error.message)


def failure(report: CheckReport) -> DamagedData | None:
    """Return an error for the damage that was found."""
    if not report.errors:
        return _uncovered_failure(report)
    damaged = {error.point for error in report.errors if error.point is not None}
    return DamagedData(
        f"the check found damage in {format_count(len(damaged), 'restore point')} "
        f"({format_count(len(report.errors), 'error')})",
        advice="Restore another point, or salvage a damaged disk with 'puller restore --salvage'.",
    )


def _uncovered_failure(report: CheckReport) -> DamagedData | None:
    if not report.uncovered:
        return None
    return DamagedData(
        f"the locks of {format_count(len(report.uncovered), 'restore point')} end before they should",
        advice="Find out who could end these locks. The next backup locks what its own point needs.",
    )
