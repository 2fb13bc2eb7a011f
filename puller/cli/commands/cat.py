"""``puller cat``."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import click

from puller.cli.input.access import open_repository
from puller.cli.input.files import choices_of, files_options, split_place
from puller.cli.input.options import Command
from puller.cli.output.outcome import Outcome
from puller.cli.output.reporting.measures import RESTORE
from puller.cli.output.reporting.progress import observing
from puller.cli.output.settings import Settings
from puller.cli.output.streams.console import silence
from puller.errors import OutputFailed, UsageError


@click.command("cat", cls=Command)
@click.argument("place", metavar="POINT:/PATH")
@files_options
@click.pass_obj
def command(settings: Settings, /, place: str, **options: Any) -> Outcome:
    """Print the content of a guest's file to standard output.

    POINT is as for 'puller ls'. A symbolic link is followed, in the guest.
    """
    if settings.json:
        raise UsageError("cat prints the file, not JSON", advice="Leave --json out, or use 'puller cp'.")
    point, path = split_place(place)
    choices = choices_of(**options)
    repository = open_repository(settings)
    from puller import api

    with observing(settings, RESTORE) as observer:
        _print(api.read_file(repository, point, path, observer=observer, **choices))
    return Outcome()


def _print(pieces: Iterable[bytes]) -> None:
    """Write to standard output. That its reader has seen enough is not an error."""
    try:
        for piece in pieces:
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        silence(sys.stdout)
    except OSError as error:
        silence(sys.stdout)
        raise OutputFailed(
            f"cannot write to standard output: {error.strerror}", advice="Check where the output goes."
        ) from error
