"""``puller find``."""

from __future__ import annotations

from typing import Any

import click

from puller.cli.input.access import open_repository
from puller.cli.input.files import choices_of, files_options
from puller.cli.input.options import Command
from puller.cli.output.outcome import Outcome
from puller.cli.output.reporting.measures import RESTORE
from puller.cli.output.reporting.progress import observing
from puller.cli.output.results.entries import document, text
from puller.cli.output.settings import Settings
from puller.errors import UsageError


@click.command("find", cls=Command)
@click.argument("point")
@click.argument("pattern")
@files_options
@click.pass_obj
def command(settings: Settings, /, point: str, pattern: str, **options: Any) -> Outcome:
    """Find files of a guest by name.

    PATTERN is a shell pattern for names, such as '*.conf'. With a slash in it, it is for whole paths, and '*'
    matches slashes too. POINT is as for 'puller ls'. An empty list is not an error.
    """
    if ":/" in point:
        raise UsageError(
            f"'puller find' searches a whole point, not {point!r}",
            advice="Name the directory in the pattern, such as '/etc/*'.",
        )
    choices = choices_of(**options)
    repository = open_repository(settings)
    from puller import api

    with observing(settings, RESTORE) as observer:
        found = api.find_files(repository, point, pattern, observer=observer, **choices)
    return Outcome(document(found), text(found.entries))
