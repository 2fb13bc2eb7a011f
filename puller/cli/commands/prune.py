"""``puller prune``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from puller.cli.input.access import open_repository
from puller.cli.input.durations import Duration
from puller.cli.input.options import Command, hosts_option
from puller.cli.output.console import say
from puller.cli.output.measures import PRUNE
from puller.cli.output.outcome import Outcome
from puller.cli.output.progress import observing
from puller.cli.output.settings import Settings
from puller.cli.output.tables import table
from puller.units import format_bytes

if TYPE_CHECKING:
    from puller.upkeep.prune import PruneReport
    from puller.upkeep.retention import Decision

_COUNTS = {
    "last": "Keep the N newest points.",
    "hourly": "Keep the newest point of each of the N newest hours that have one.",
    "daily": "The same for days.",
    "weekly": "The same for ISO weeks.",
    "monthly": "The same for months.",
    "yearly": "The same for years.",
}
_NO_RULE = "puller: no --keep rule is given, so all restore points stay"


def _keep_rules(function: Callable[..., Outcome]) -> Callable[..., Outcome]:
    for name, text in reversed(_COUNTS.items()):
        option = click.option(f"--keep-{name}", name, type=click.IntRange(min=1), metavar="N", help=text)
        function = option(function)
    return function


@click.command("prune", cls=Command)
@_keep_rules
@click.option(
    "--keep-within",
    "within",
    type=Duration(),
    metavar="DUR",
    help="Keep what is at most so much older than the newest point: 36h, 7d, 2w, 1y6m.",
)
@hosts_option("Judge only the points that this host has taken: a name or a pattern. All others stay.")
@click.option(
    "--across-hosts",
    is_flag=True,
    help="Judge the points of a domain together, whichever host took them: for domains that migrate. "
    "Without this option, each host's points are judged separately.",
)
@click.option(
    "--grace",
    type=Duration(),
    default="1d",
    show_default=True,
    metavar="DUR",
    help="How long what nothing needs any more waits before it is removed. With 0, running backups may fail.",
)
@click.option("--dry-run", is_flag=True, help="Tell which points would go and why; touch nothing.")
@click.pass_obj
def command(settings: Settings, /, grace: timedelta, dry_run: bool, **rules: Any) -> Outcome:
    """Remove the points that no --keep rule keeps, in each domain; then free space that no point needs.

    Without a --keep rule no point is removed: only space is freed. The points that each host has taken of a
    domain are judged separately, and the newest of them always stays. The newest point with a disk that later
    ones lack stays as long as the longest rule reaches, and 30 days at least. Space is freed in two steps: a
    prune condemns what is unreachable, and a later one, when the grace time is over, removes it.
    """
    repository = open_repository(settings)
    from puller import api
    from puller.upkeep.retention import Policy

    policy = Policy(**rules)
    if policy.is_empty and settings.verbosity >= 0:
        say(_NO_RULE)
    if dry_run:
        return _preview(api.preview_prune(repository, policy))
    with observing(settings, PRUNE) as observer:
        report = api.prune(repository, policy, grace=grace, observer=observer)
    return Outcome(document(report), text(report))


def document(report: PruneReport) -> dict[str, Any]:
    """The report as docs/cli.md promises it."""
    return {
        "kept": list(report.kept),
        "removed": list(report.removed),
        "packs_condemned": report.packs_condemned,
        "packs_deleted": report.packs_deleted,
        "packs_compacted": report.packs_compacted,
        "bytes_freed": report.bytes_freed,
    }


def text(report: PruneReport) -> str:
    """The report for people."""
    return (
        f"points: {len(report.kept)} kept, {len(report.removed)} removed\n"
        f"packs: {report.packs_condemned} condemned, {report.packs_deleted} deleted, "
        f"{report.packs_compacted} compacted; {format_bytes(report.bytes_freed)} freed"
    )


def _preview(report: PruneReport) -> Outcome:
    decisions = [asdict(decision) for decision in report.decisions]
    return Outcome({**document(report), "decisions": decisions}, _explanation(report.decisions))


def _explanation(decisions: Iterable[Decision]) -> str:
    rows = [
        (item.point, item.domain, item.host, "keep" if item.keep else "remove", ", ".join(item.reasons))
        for item in decisions
    ]
    return table(("POINT", "DOMAIN", "HOST", "WOULD", "WHY"), rows) if rows else "no restore points"
