"""``puller versions``."""

from __future__ import annotations

from typing import Any

import click

from puller.cli.input.access import open_repository
from puller.cli.input.files import choices_of, files_options, split_place
from puller.cli.input.options import Command
from puller.cli.output.outcome import Outcome
from puller.cli.output.reporting.measures import RESTORE
from puller.cli.output.reporting.progress import observing
from puller.cli.output.results.tables import table
from puller.cli.output.settings import Settings
from puller.cli.output.times import local, rfc3339


@click.command("versions", cls=Command)
@click.argument("place", metavar="DOMAIN:/PATH")
@files_options
@click.pass_obj
def command(settings: Settings, /, place: str, **options: Any) -> Outcome:
    """List the points in which a file differs.

    DOMAIN is a name or a UUID. The newest point is first; a point is listed if the size or the time of
    modification is not that of the next newer point. Points in which no disk has changed are skipped; every
    other one costs a start of libguestfs's virtual machine.
    """
    domain, path = split_place(place)
    choices = choices_of(**options)
    repository = open_repository(settings)
    from puller import api

    with observing(settings, RESTORE) as observer:
        found = api.file_versions(repository, domain, path, observer=observer, **choices)
    documents = [
        {"point": item.point, "size": item.size, "mtime": rfc3339(item.mtime), "oldest": item.oldest}
        for item in found
    ]
    rows = [[item.point, str(item.size), local(item.mtime), item.oldest] for item in found]
    return Outcome({"versions": documents}, table(["POINT", ">SIZE", "MODIFIED", "SAME SINCE POINT"], rows))
