"""``puller stats``."""

from __future__ import annotations

from dataclasses import asdict

import click

from puller.cli.access import open_repository
from puller.cli.options import Command, Settings
from puller.cli.outcome import Outcome
from puller.cli.tables import facts
from puller.errors import DamagedData
from puller.units import format_bytes


@click.command("stats", cls=Command)
@click.pass_obj
def command(settings: Settings) -> Outcome:
    """Tell what the repository holds."""
    repository = open_repository(settings)
    from puller.agent import api

    damaged: list[DamagedData] = []
    found = api.stats(repository, damaged=lambda _, error: damaged.append(error))
    pairs = (
        ("domains", str(found.domains)),
        ("points", str(found.points)),
        ("logical", format_bytes(found.logical_bytes)),
        ("stored", format_bytes(found.stored_bytes)),
        ("packs", str(found.packs)),
        ("objects", str(found.objects)),
    )
    return Outcome(asdict(found), facts(pairs), damaged[0] if damaged else None)
