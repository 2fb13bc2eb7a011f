"""``puller status``."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from puller.cli.input.access import open_repository
from puller.cli.input.options import Command, hosts_option
from puller.cli.output.outcome import Outcome
from puller.cli.output.results.machines import document, listing
from puller.cli.output.settings import Settings
from puller.errors import DamagedData, MachinesLate, PullerError

if TYPE_CHECKING:
    from puller.overview.machine import MachineStatus
    from puller.repository.repository import Repository

EXCLUDE = click.option(
    "--exclude",
    multiple=True,
    metavar="DOMAIN",
    help="Leave out this domain: a name, a pattern or a UUID. Can be repeated.",
)


ALSO = click.option(
    "--also",
    multiple=True,
    metavar="NAME",
    help="Also read this repository: a name in [repositories] of the configuration, or a URL. Can be "
    "repeated.",
)


@click.command("status", cls=Command)
@hosts_option("Show only machines whose newest point was taken by HOST: a name, or a pattern such as 'kvm*'.")
@EXCLUDE
@ALSO
@click.pass_obj
def command(
    settings: Settings, hosts: tuple[str, ...], exclude: tuple[str, ...], also: tuple[str, ...]
) -> Outcome:
    """Show which machines are late, and when each was proven.

    A machine is late if it has no new point for longer than its job's 'interval', or else for longer than
    twice the usual time between its points. The exit code is 1 if any is late.
    """
    repositories = open_all(settings, also)
    from puller import api

    damaged: list[DamagedData] = []
    machines = api.status(
        repositories, hosts=hosts, exclude=exclude, damaged=lambda _, error: damaged.append(error)
    )
    now = datetime.now(UTC)
    return Outcome(_document(machines), listing(machines, now), _failure(machines, damaged))


def open_all(settings: Settings, also: Sequence[str]) -> list[Repository]:
    """Open the repository, and the others that are named."""
    return [open_repository(settings), *(open_repository(settings.of(name)) for name in also)]


def _document(machines: Sequence[MachineStatus]) -> dict[str, Any]:
    return {"domains": [document(machine) for machine in machines]}


def _failure(machines: Sequence[MachineStatus], damaged: Sequence[DamagedData]) -> PullerError | None:
    if damaged:
        return damaged[0]
    late = list({machine.uuid: machine.domain for machine in machines if machine.late}.values())
    if not late:
        return None
    count = len({machine.uuid for machine in machines})
    shown = ", ".join(late[:5]) + (f" and {len(late) - 5} more" if len(late) > 5 else "")
    return MachinesLate(f"{len(late)} of {count} machines {'is' if len(late) == 1 else 'are'} late: {shown}")
