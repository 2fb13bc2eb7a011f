"""``puller init``."""

from __future__ import annotations

import click

from puller.cli.input.access import create_repository
from puller.cli.input.options import Command
from puller.cli.output.console import say
from puller.cli.output.outcome import Outcome
from puller.cli.output.settings import Settings
from puller.store.probe import shortcomings


@click.command("init", cls=Command)
@click.option(
    "--no-encryption",
    is_flag=True,
    help="Do not encrypt the data. Everybody who can read the store can then read the backups.",
)
@click.pass_obj
def command(settings: Settings, no_encryption: bool) -> Outcome:
    """Create a repository, encrypted with a password or a key file.

    A directory is created if its parent exists. A bucket must exist already.
    """
    repository = create_repository(settings, encrypted=not no_encryption)
    url = repository.store.url
    if settings.verbosity >= 0:
        for text in shortcomings(url, repository.descriptor.conditional_writes):
            say(f"puller: {text}")
    how = "not encrypted" if no_encryption else "encrypted"
    return Outcome(
        {"repository": url, "id": repository.id, "encrypted": not no_encryption},
        f"created repository {repository.id} at {url} ({how})",
    )
