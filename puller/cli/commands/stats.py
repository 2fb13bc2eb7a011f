"""``puller stats``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from puller.cli.input.access import open_repository
from puller.cli.input.options import Command, hosts_option
from puller.cli.output.outcome import Outcome
from puller.cli.output.results.records import moment
from puller.cli.output.results.tables import facts, table
from puller.cli.output.settings import Settings
from puller.cli.output.times import local, rfc3339
from puller.errors import DamagedData
from puller.units import format_bytes

if TYPE_CHECKING:
    from puller.upkeep.stats import Cost, Stats


@click.command("stats", cls=Command)
@hosts_option("Count only points taken by HOST: a name, or a pattern such as 'kvm*'.")
@click.pass_obj
def command(settings: Settings, hosts: tuple[str, ...]) -> Outcome:
    """Show what the repository holds, and what each domain adds."""
    repository = open_repository(settings)
    from puller import api

    damaged: list[DamagedData] = []
    found = api.stats(repository, hosts=hosts, damaged=lambda _, error: damaged.append(error))
    pairs = (
        ("domains", str(found.domains)),
        ("points", str(found.points)),
        ("logical", format_bytes(found.logical_bytes)),
        ("stored", format_bytes(found.stored_bytes)),
        ("packs", str(found.packs)),
        ("objects", str(found.objects)),
    )
    text = "\n\n".join([facts(pairs), *([_listing(found.costs)] if found.costs else [])])
    return Outcome(_document(found), text, damaged[0] if damaged else None)


def _document(found: Stats) -> dict[str, Any]:
    times = ("oldest", "newest")
    costs = [
        {
            **asdict(cost),
            **{name: rfc3339(getattr(cost, name)) for name in times},
            "last_drill": moment(cost.last_drill),
        }
        for cost in found.costs
    ]
    return {**asdict(found), "costs": costs}


def _listing(costs: Sequence[Cost]) -> str:
    heads = ("DOMAIN", "HOST", ">POINTS", "OLDEST", "NEWEST", ">LOGICAL", ">ADDED")
    rows = [
        (
            cost.domain,
            cost.host,
            str(cost.points),
            local(cost.oldest),
            local(cost.newest),
            format_bytes(cost.logical_bytes),
            format_bytes(cost.added_bytes),
        )
        for cost in costs
    ]
    if not any(cost.last_drill for cost in costs):
        return table(heads, rows)
    return table(
        (*heads, "LAST DRILL"), [(*row, _drilled(cost)) for row, cost in zip(rows, costs, strict=True)]
    )


def _drilled(cost: Cost) -> str:
    return "never" if cost.last_drill is None else f"{cost.last_verdict} {local(cost.last_drill)}"
