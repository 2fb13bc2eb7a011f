"""``puller ls``."""

from __future__ import annotations

from typing import Any

import click

from puller.cli.input.access import open_repository
from puller.cli.input.files import choices_of, files_options, split_place
from puller.cli.input.options import Command
from puller.cli.output.outcome import Outcome
from puller.cli.output.reporting.measures import RESTORE
from puller.cli.output.reporting.progress import observing
from puller.cli.output.results.entries import document, text
from puller.cli.output.settings import Settings


@click.command("ls", cls=Command)
@click.argument("place", metavar="POINT[:/PATH]")
@files_options
@click.pass_obj
def command(settings: Settings, /, place: str, **options: Any) -> Outcome:
    """List a directory of a guest, or one file.

    POINT is an id, a unique prefix of one, DOMAIN@latest, or DOMAIN@TIME (the newest at or before TIME).
    Without a path, list the uppermost directory. libguestfs reads the files, in a virtual machine of its own.
    """
    point, path = split_place(place, whole=True)
    choices = choices_of(**options)
    repository = open_repository(settings)
    from puller import api

    with observing(settings, RESTORE) as observer:
        found = api.list_files(repository, point, path, observer=observer, **choices)
    return Outcome(document(found), text(found.entries, path))
