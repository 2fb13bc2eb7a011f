"""``puller prune``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from puller.cli.input.access import open_repository
from puller.cli.input.options import Command, hosts_option
from puller.cli.input.quantities import DURATION
from puller.cli.output.outcome import Outcome
from puller.cli.output.reporting.measures import PRUNE
from puller.cli.output.reporting.progress import observing
from puller.cli.output.results.tables import table
from puller.cli.output.settings import Settings
from puller.cli.output.streams.console import say
from puller.units import format_bytes, format_count

if TYPE_CHECKING:
    from puller.upkeep.pruning.prune import PruneReport
    from puller.upkeep.pruning.sweep import Waiting
    from puller.upkeep.retention.policy import Decision

_COUNTS = {
    "last": "Keep the N newest points.",
    "hourly": "Keep the newest point of each hour (UTC), for the N newest hours that have points.",
    "daily": "Keep the newest point of each day (UTC), for the N newest days that have points.",
    "weekly": "Keep the newest point of each ISO week (UTC), for the N newest ISO weeks that have points.",
    "monthly": "Keep the newest point of each month (UTC), for the N newest months that have points.",
    "yearly": "Keep the newest point of each year (UTC), for the N newest years that have points.",
}
_NO_RULE = "puller: no --keep rule is given, so no restore point is removed"


def _keep_rules(function: Callable[..., Outcome]) -> Callable[..., Outcome]:
    for name, text in reversed(_COUNTS.items()):
        option = click.option(f"--keep-{name}", name, type=click.IntRange(min=1), metavar="N", help=text)
        function = option(function)
    return function


def _tag(context: click.Context, parameter: click.Parameter, words: tuple[str, ...]) -> tuple[str, ...]:
    if any(word.startswith("=") or not word for word in words):
        raise click.BadParameter("a tag is KEY=VALUE, or KEY for any value", context, parameter)
    return words


@click.command("prune", cls=Command)
@click.argument("domains", nargs=-1, metavar="[DOMAIN]...")
@_keep_rules
@click.option(
    "--keep-within",
    "within",
    type=DURATION,
    metavar="DURATION",
    help="Keep all points no older than this, counted from the newest (for example 36h, 7d, 2w or 1y6mo).",
)
@hosts_option(
    "Remove only points taken by HOST: a name, or a pattern such as 'kvm*'. Points of other hosts stay."
)
@click.option(
    "--tag",
    "tags",
    multiple=True,
    callback=_tag,
    metavar="KEY[=VALUE]",
    help="Remove only points that have this tag, with any value if none is given. Other points stay. If "
    "repeated, one of the tags suffices.",
)
@click.option(
    "--keep-tag",
    "keep_tags",
    multiple=True,
    callback=_tag,
    metavar="KEY[=VALUE]",
    help="Keep all points that have this tag, with any value if none is given. Can be repeated. A --keep-tag "
    "alone removes nothing: without a --keep rule, every point stays.",
)
@click.option(
    "--across-hosts",
    is_flag=True,
    help="Apply the rules to all points of a domain together, for domains that move from host to host. "
    "Without it, the rules apply to the points of each host separately.",
)
@click.option(
    "--grace",
    type=DURATION,
    default="1d",
    show_default=True,
    metavar="DURATION",
    help="Grace time before unreferenced data is deleted (for example 12h or 2d). Choose more than the "
    "longest backup takes: with 0, running backups may fail.",
)
@click.option(
    "--dry-run", is_flag=True, help="Print which points would be removed, and why, but change nothing."
)
@click.pass_obj
def command(settings: Settings, /, grace: timedelta, dry_run: bool, **rules: Any) -> Outcome:
    """Remove old restore points and free their space.

    Remove only points of each DOMAIN (a name or a UUID), or points of all domains if none is given.

    A point stays if any --keep rule keeps it, or if 'puller keep' holds it. Without a --keep rule, no point
    is removed and only space is freed. The rules apply to each domain and host separately, and the newest
    point of each always stays. If newer points lack a disk, the newest point that has it stays for as long as
    the longest rule reaches, but for at least 30 days.

    Space is freed in two steps: one prune condemns unreferenced data, and a later one deletes it once the
    grace time is over.
    """
    repository = open_repository(settings)
    from puller import api
    from puller.upkeep.retention.policy import Policy

    policy = Policy(**rules)
    if policy.is_empty and settings.verbosity >= 0:
        say(_NO_RULE)
    if dry_run:
        plan = api.preview_prune(repository, policy)
        return Outcome(
            document(plan) | {"decisions": [asdict(item) for item in plan.decisions]},
            _explanation(plan.decisions),
        )
    with observing(settings, PRUNE) as observer:
        report = api.prune(repository, policy, grace=grace, observer=observer)
    return Outcome(document(report), text(report))


def document(report: PruneReport) -> dict[str, Any]:
    """Return the document of docs/cli.md."""
    found = {name: value for name, value in asdict(report).items() if name != "decisions"}
    return found | {"waiting": [_waiting(item) for item in report.waiting]}


def _waiting(item: Waiting) -> dict[str, Any]:
    return {"day": item.day.isoformat(), "objects": item.objects, "bytes": item.bytes}


def text(report: PruneReport) -> str:
    """Return the report for people."""
    held = f" ({len(report.held)} only by 'puller keep')" if report.held else ""
    return (
        f"points: {len(report.kept)} kept{held}, {len(report.removed)} removed\n"
        f"packs: {report.packs_condemned} condemned, {report.packs_deleted} deleted, "
        f"{report.packs_compacted} compacted; {format_bytes(report.bytes_freed)} freed"
        + "".join(map(_waiting_line, report.waiting))
    )


def _waiting_line(item: Waiting) -> str:
    held = format_count(item.objects, "deleted object")
    return f"\nheld until {item.day}: {held}, {format_bytes(item.bytes)}"


def _explanation(decisions: Iterable[Decision]) -> str:
    rows = [
        (item.point, item.domain, item.host, "keep" if item.keep else "remove", ", ".join(item.reasons))
        for item in decisions
    ]
    return table(("POINT", "DOMAIN", "HOST", "WOULD", "WHY"), rows) if rows else "no restore points"
