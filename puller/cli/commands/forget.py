"""``puller forget``."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from puller.cli.input.access import open_repository
from puller.cli.input.options import Command
from puller.cli.output.outcome import Outcome
from puller.cli.output.reporting.measures import BACKUP
from puller.cli.output.reporting.progress import observing
from puller.cli.output.settings import Settings
from puller.cli.output.streams.console import printable

if TYPE_CHECKING:
    from puller.backups.forget import Forgotten


@click.command("forget", cls=Command)
@click.argument("domain", metavar="DOMAIN")
@click.pass_obj
def command(settings: Settings, domain: str) -> Outcome:
    """Remove puller's checkpoints and bitmaps from a domain.

    Remove the checkpoints and dirty bitmaps that backups to this repository made. DOMAIN is a name or a
    UUID. The domain may be running or shut off. Restore points stay, and so do the checkpoints and bitmaps
    of other repositories and programs. The next backup of DOMAIN is a rehash: it reads all data of every
    disk, and stores only what differs from the last restore point.
    """
    repository = open_repository(settings)
    from puller import api

    connect = settings.connect or api.DEFAULT_URI
    with observing(settings, BACKUP) as observer:
        removed = api.forget(repository, domain, connect=connect, observer=observer)
    return Outcome(asdict(removed), _text(removed))


def _text(removed: Forgotten) -> str:
    name = printable(removed.domain)
    lines = [f"{name}: removed checkpoint {printable(each)}" for each in removed.checkpoints]
    lines += [
        f"{name}: removed bitmap {printable(each.bitmap)} from disk {each.disk}" for each in removed.bitmaps
    ]
    return "\n".join(lines) or f"{name}: no checkpoint or bitmap of this repository"
