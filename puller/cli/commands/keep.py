"""``puller keep``."""

from __future__ import annotations

import re
from datetime import UTC, datetime, time
from typing import TYPE_CHECKING, Any

import click

from puller.cli.input.access import open_repository
from puller.cli.input.options import OF_HOST, Command
from puller.cli.output.outcome import Outcome
from puller.cli.output.reporting.measures import PRUNE
from puller.cli.output.reporting.progress import observing
from puller.cli.output.results.records import moment
from puller.cli.output.settings import Settings
from puller.cli.output.times import utc

if TYPE_CHECKING:
    from puller.upkeep.retention.keep import KeptPoint

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_LAST_SECOND = time(23, 59, 59)


def _date(context: click.Context, parameter: click.Parameter, word: str | None) -> datetime | None:
    """Parse a date, which means the end of the day, or a time; UTC unless it names a zone."""
    if word is None:
        return None
    try:
        found = datetime.fromisoformat(word)
    except ValueError as error:
        text = f"invalid date '{word}': use a date such as 2027-01-31 or a time such as 2027-01-31T18:00:00Z"
        raise click.BadParameter(text, context, parameter) from error
    if _DAY.fullmatch(word):
        found = datetime.combine(found, _LAST_SECOND)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


@click.command("keep", cls=Command)
@click.argument("point", metavar="POINT")
@click.option(
    "--until",
    callback=_date,
    metavar="DATE",
    help="Keep it until the end of this day (2027-01-31), or until this time (2027-01-31T18:00:00Z), in UTC "
    "unless it names a zone. Without it, keep it until it is released.",
)
@click.option("--note", default="", metavar="TEXT", help="Store why the point is kept; lists show it.")
@OF_HOST
@click.pass_obj
def command(
    settings: Settings, point: str, until: datetime | None, note: str, hosts: tuple[str, ...]
) -> Outcome:
    """Protect a restore point from prune and delete.

    Neither 'puller prune' nor 'puller delete' removes the point before the time of --until, or before 'puller
    release'. If the point is kept already, the new --until and --note replace the old ones.

    POINT is an id, a unique prefix of one, DOMAIN@latest, or DOMAIN@TIME (the newest at or before TIME).
    """
    repository = open_repository(settings)
    from puller import api

    with observing(settings, PRUNE) as observer:
        kept = api.keep(repository, point, hosts=hosts, until=until, note=note, observer=observer)
    end = "until it is released" if kept.until is None else f"until {utc(kept.until)}"
    return Outcome(document(kept), f"keeping {kept.point} {end}")


def document(kept: KeptPoint) -> dict[str, Any]:
    """Return the document of docs/cli.md."""
    return {"point": kept.point, "kept": kept.kept, "until": moment(kept.until), "note": kept.note}
