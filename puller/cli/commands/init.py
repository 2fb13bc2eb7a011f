"""``puller init``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from puller.cli.input.access import create_repository
from puller.cli.input.locks import LOCK_DAYS, LOCK_MODE, check_together, period_of
from puller.cli.input.options import Command
from puller.cli.output.console import say
from puller.cli.output.outcome import Outcome
from puller.cli.output.settings import Settings
from puller.store.probe import shortcomings

if TYPE_CHECKING:
    from puller.api import LockMode


@click.command("init", cls=Command)
@click.option(
    "--no-encryption",
    is_flag=True,
    help="Do not encrypt the data. Everybody who can read the store can then read the backups.",
)
@LOCK_MODE
@LOCK_DAYS
@click.pass_obj
def command(
    settings: Settings, no_encryption: bool, lock_mode: LockMode | None, lock_days: int | None
) -> Outcome:
    """Create a repository, encrypted with a password or a key file.

    A directory is created if its parent exists. A bucket must exist already. With --lock-mode and
    --lock-days, nobody can delete what a restore point needs until its lock ends; the bucket must have Object
    Lock.
    """
    check_together(lock_mode, lock_days)
    repository = create_repository(settings, not no_encryption, lock_mode, period_of(lock_days))
    url = repository.store.url
    if settings.verbosity >= 0:
        for text in shortcomings(url, repository.descriptor.conditional_writes):
            say(f"puller: {text}")
    how = "not encrypted" if no_encryption else "encrypted"
    how += "" if lock_mode is None else f", locked for {lock_days} days, {lock_mode}"
    return Outcome(
        {"repository": url, "id": repository.id, "encrypted": not no_encryption},
        f"created repository {repository.id} at {url} ({how})",
    )
