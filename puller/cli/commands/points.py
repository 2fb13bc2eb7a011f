"""``puller points``."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from puller.cli.input.access import open_repository
from puller.cli.input.options import Command, hosts_option
from puller.cli.output.outcome import Outcome
from puller.cli.output.results.records import listing, record
from puller.cli.output.settings import Settings
from puller.errors import DamagedData


@click.command("points", cls=Command)
@click.argument("domain", required=False)
@hosts_option("List only points taken by HOST: a name, or a pattern such as 'kvm*'.")
@click.pass_obj
def command(settings: Settings, domain: str | None, hosts: tuple[str, ...]) -> Outcome:
    """List restore points, oldest first.

    List the points of DOMAIN (a name or a UUID), or of all domains if none is given.
    """
    repository = open_repository(settings)
    from puller import api

    damaged: list[DamagedData] = []
    points = api.list_points(repository, domain, hosts=hosts, damaged=lambda _, error: damaged.append(error))
    now = datetime.now(UTC)
    keeps = repository.keeps.holding(now)
    proofs = repository.proofs.newest()
    names = [(point.uuid, point.point) for point in points]
    records = [
        record(point, keeps.get(name), proofs.get(name)) for point, name in zip(points, names, strict=True)
    ]
    return Outcome({"points": records}, listing(points, now, keeps, proofs), damaged[0] if damaged else None)
