"""``puller mount``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from puller.cli.input.access import open_repository
from puller.cli.input.files import choices_of, files_options
from puller.cli.input.options import Command
from puller.cli.output.outcome import Outcome
from puller.cli.output.reporting.measures import RESTORE
from puller.cli.output.reporting.progress import observing
from puller.cli.output.settings import Settings
from puller.cli.output.streams.console import answer, printable
from puller.cli.signals import Stopped

if TYPE_CHECKING:
    from puller.api.files import MountedPoint


@click.command("mount", cls=Command)
@click.argument("point")
@click.argument("directory", metavar="DIR")
@files_options
@click.pass_obj
def command(settings: Settings, /, point: str, directory: str, **options: Any) -> Outcome:
    """Mount the files of a guest, read-only.

    POINT is as for 'puller ls'. DIR must be an empty directory. The command runs until DIR is unmounted or a
    signal ends it: press Ctrl-C, or run 'umount DIR' (if you are not root, 'fusermount -u DIR'). Only the
    user who calls it can look at the files.
    """
    choices = choices_of(**options)
    repository = open_repository(settings)
    from puller import api

    mounted: list[MountedPoint] = []

    def ready(found: MountedPoint) -> None:
        mounted.append(found)
        answer(json.dumps(_document(found)) if settings.json else _text(found))

    try:
        with observing(settings, RESTORE) as observer:
            api.mount_files(repository, point, directory, ready=ready, observer=observer, **choices)
    except Stopped:
        if not mounted:
            raise
    return Outcome()


def _document(found: MountedPoint) -> dict[str, Any]:
    return {"point": found.point, "directory": found.directory, "filesystems": dict(found.filesystems)}


def _text(found: MountedPoint) -> str:
    return printable(f"point {found.point} is mounted at {found.directory}; press Ctrl-C to unmount it")
