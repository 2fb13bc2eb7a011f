"""``puller init``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from puller.cli.input.access import create_repository, open_other_with_secret, secret_named_by
from puller.cli.input.locks import LOCK_DAYS, LOCK_MODE, check_together, period_of
from puller.cli.input.options import Command
from puller.cli.output.outcome import Outcome
from puller.cli.output.settings import Settings
from puller.cli.output.streams.console import say
from puller.errors import UsageError
from puller.store.probe import shortcomings

if TYPE_CHECKING:
    from puller.api import LockMode


@click.command("init", cls=Command)
@click.option(
    "--no-encryption",
    is_flag=True,
    help="Do not encrypt the data. Everybody who can read the store can then read the backups.",
)
@click.option(
    "--like",
    metavar="REPOSITORY",
    help="Use the master secret of this repository, a URL or a name in the configuration: 'puller copy' "
    "between the two then need not encrypt data again. Needs a key of that repository whose role is full.",
)
@click.option(
    "--like-password-file",
    metavar="FILE",
    help="Open that repository with the password in FILE.  [default: the configuration's for it, or else the "
    "secret of the new repository]",
)
@click.option(
    "--like-key-file",
    metavar="FILE",
    help="Open that repository with this key file instead of a password.",
)
@LOCK_MODE
@LOCK_DAYS
@click.pass_obj
def command(  # noqa: PLR0913, PLR0917 - one parameter for each option
    settings: Settings,
    no_encryption: bool,
    like: str | None,
    like_password_file: str | None,
    like_key_file: str | None,
    lock_mode: LockMode | None,
    lock_days: int | None,
) -> Outcome:
    """Create a repository, encrypted with a password or a key file.

    A directory is created if its parent exists. A bucket must exist already. With --lock-mode and
    --lock-days, nobody can delete what a restore point needs until its lock ends; the bucket must have Object
    Lock. Without them, nothing is locked.
    """
    check_together(lock_mode, lock_days)
    if like is None and (like_password_file or like_key_file):
        raise UsageError(
            "a password or key file for --like was given, but no --like",
            advice="Add --like REPOSITORY, or leave the file out.",
        )
    kin = None
    if like is not None:
        with secret_named_by("--like"):
            kin = open_other_with_secret(settings, like, like_password_file, like_key_file)
    repository = create_repository(settings, not no_encryption, lock_mode, period_of(lock_days), kin)
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
