"""``puller freeze``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from puller.cli.input.access import open_repository
from puller.cli.input.guest import of_guest
from puller.cli.input.options import Command
from puller.cli.output.outcome import Outcome
from puller.cli.output.reporting.measures import BACKUP
from puller.cli.output.reporting.progress import observing
from puller.cli.output.settings import Settings
from puller.cli.output.streams.console import printable
from puller.cli.output.times import rfc3339
from puller.errors import CommandFailed, PullerError
from puller.units import format_bytes

if TYPE_CHECKING:
    from puller.backups.freeze import Freeze


@click.command("freeze", cls=Command)
@click.argument("domain", metavar="DOMAIN")
@click.option(
    "--run",
    "words",
    required=True,
    metavar="COMMAND",
    help="Run this command in a shell while the disks are frozen. PULLER_EXPORTS names a JSON file with the "
    "exports, PULLER_URI_vda is the NBD URI of the disk vda.",
)
@click.option(
    "--since",
    metavar="POINT|CHECKPOINT",
    help="Mark what changed since this restore point, or since this checkpoint of the domain.",
)
@click.option(
    "--checkpoint",
    is_flag=True,
    help="Create a checkpoint at the same instant, for a later --since. It is deleted if the command fails.",
)
@click.option(
    "--disk", "disks", multiple=True, metavar="TARGET", help="Freeze only this disk. Can be repeated."
)
@click.option(
    "--exclude-disk",
    "exclude",
    multiple=True,
    metavar="TARGET",
    help="Leave out this disk. Can be repeated.",
)
@of_guest
@click.option(
    "--scratch-dir",
    metavar="DIR",
    help="Directory for the scratch images that hold overwritten guest data while the command runs.  "
    "[default: the directory of the domain's first image]",
)
@click.pass_obj
def command(settings: Settings, /, domain: str, words: str, **choices: Any) -> Outcome:
    """Hand the frozen disks of a domain to another program.

    All disks of DOMAIN, a name or a UUID, are frozen at one instant and served over NBD while COMMAND runs.
    The guest goes on writing. When the command ends, puller ends the job and removes the scratch, in every
    failure too. The exit code is 1 if the command fails. No repository is needed, except for --since with a
    restore point.
    """
    since = choices["since"]
    repository = open_repository(settings) if since is not None and settings.repository else None
    from puller import api

    connect = settings.connect or api.DEFAULT_URI
    with observing(settings, BACKUP) as observer:
        done = api.freeze(domain, words, connect=connect, repository=repository, observer=observer, **choices)
    return Outcome(_document(done), _text(done), _failure(done))


def _document(done: Freeze) -> dict[str, Any]:
    return {
        "domain": done.domain,
        "uuid": done.uuid,
        "time": rfc3339(done.time),
        "consistency": done.consistency,
        "checkpoint": done.checkpoint,
        "disks": [
            {"disk": disk.disk, "uri": disk.uri, "bitmap": disk.bitmap, "size": disk.size}
            for disk in done.disks
        ],
        "exit_code": done.exit_code,
    }


def _text(done: Freeze) -> str:
    if done.exit_code:
        return ""
    disks = ", ".join(f"{disk.disk} ({format_bytes(disk.size)})" for disk in done.disks)
    lines = [f"{printable(done.domain)}: the command ended; {disks} had been frozen at {rfc3339(done.time)}"]
    if done.checkpoint is not None:
        lines.append(f"{printable(done.domain)}: created checkpoint {printable(done.checkpoint)}")
    return "\n".join(lines)


def _failure(done: Freeze) -> PullerError | None:
    from puller.host.command import outcome

    if not done.exit_code:
        return None
    return CommandFailed(f"the command failed with {outcome(done.exit_code)}; the disks are released")
