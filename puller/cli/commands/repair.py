"""``puller repair index`` and ``puller repair versions``."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING

import click

from puller.cli.input.access import open_or_ask, open_repository, store_options
from puller.cli.input.options import Command, Group
from puller.cli.input.quantities import MOMENT
from puller.cli.output.outcome import Outcome
from puller.cli.output.reporting.measures import CHECK
from puller.cli.output.reporting.progress import observing
from puller.cli.output.settings import Settings
from puller.cli.output.streams.console import printable
from puller.errors import DamagedData
from puller.units import format_count

if TYPE_CHECKING:
    from puller.upkeep.repair import RepairReport
    from puller.upkeep.versions import VersionsReport

command = Group(
    "repair",
    help="Rebuild the index, or bring back deleted objects.",
    no_args_is_help=False,
)


@command.command("index", cls=Command)
@click.pass_obj
def index(settings: Settings) -> Outcome:
    """Rebuild the index from the packs.

    Restores do not need the index. Backups without it store data again that the repository already has. The
    exit code is 0 if every pack could be read, and 13 otherwise.
    """
    repository = open_repository(settings)
    from puller import api

    with observing(settings, CHECK) as observer:
        report = api.repair_index(repository, observer=observer)
    return Outcome(asdict(report), _text(report), _failure(report))


@command.command("versions", cls=Command)
@click.option(
    "--since",
    type=MOMENT,
    metavar="TIME",
    help="Bring back only what was deleted or overwritten at this time or later, by the store's clock (for "
    "example 2027-01-31T18:00:00Z; UTC unless it names a zone). Without it, bring back everything.",
)
@click.option("--dry-run", is_flag=True, help="Count the objects, but change nothing.")
@click.pass_obj
def versions(settings: Settings, since: datetime | None, dry_run: bool) -> Outcome:
    """Bring back objects that somebody deleted or overwrote.

    The bucket must keep versions.

    Remove delete markers and newer versions above the oldest intact version of each object: the descriptor,
    keys, lock policies, points, packs, maps, condemned records and keeps. Nothing else is removed. Afterwards
    run 'puller repair index' and 'puller check --read-data'. The exit code is 13 if an object has no intact
    version.
    """
    from puller import api

    with observing(settings, CHECK) as observer:
        report = open_or_ask(
            settings,
            lambda url, secret: api.repair_versions(
                url,
                password=secret.password,
                key_file=secret.key_file,
                since=since,
                dry_run=dry_run,
                store_options=store_options(settings),
                observer=observer,
            ),
        )
    document = {**asdict(report), "objects": report.count}
    return Outcome(document, _text_of_versions(report, dry_run), _failure_of_versions(report))


def _text_of_versions(report: VersionsReport, dry_run: bool) -> str:
    lines = [f"no intact version: {printable(name)}" for name in report.unreadable]
    counts = ", ".join(f"{folder} {count}" for folder, count in report.brought_back.items())
    verb = "would be brought back" if dry_run else "brought back"
    total = f"{format_count(report.count, 'object')} {verb}"
    return "\n".join([*lines, f"{total} ({counts})" if counts else total])


def _failure_of_versions(report: VersionsReport) -> DamagedData | None:
    if not report.unreadable:
        return None
    return DamagedData(
        f"{format_count(len(report.unreadable), 'object')} cannot be brought back: no version is intact",
        advice="Run 'puller check' to see which restore points need them.",
    )


def _text(report: RepairReport) -> str:
    lines = [f"damaged pack, left out: {printable(name)}" for name in report.damaged]
    return "\n".join(
        [*lines, f"packs in the index: {report.packs}, old indexes removed: {report.indexes_removed}"]
    )


def _failure(report: RepairReport) -> DamagedData | None:
    if not report.damaged:
        return None
    return DamagedData(
        f"the index was rebuilt without {format_count(len(report.damaged), 'damaged pack')}",
        advice="Run 'puller check' to see which restore points and disks are damaged.",
    )
