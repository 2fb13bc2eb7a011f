"""``puller cp``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from puller.cli.input.access import open_repository
from puller.cli.input.files import choices_of, files_options, split_place
from puller.cli.input.options import Command
from puller.cli.output.outcome import Outcome
from puller.cli.output.reporting.measures import RESTORE
from puller.cli.output.reporting.progress import observing
from puller.cli.output.settings import Settings
from puller.cli.output.streams.console import printable
from puller.errors import UsageError
from puller.units import format_bytes

if TYPE_CHECKING:
    from puller.api.files import CopiedFiles
    from puller.recovery.files.copying import CopiedPath

_SHOWN = 10
"""Skipped files that people see; JSON has all."""


@click.command("cp", cls=Command)
@click.argument("places", metavar="POINT:/PATH...", nargs=-1, required=True)
@click.argument("destination", metavar="DEST")
@files_options
@click.option("--force", is_flag=True, help="Replace files that exist. Without it, they are refused.")
@click.pass_obj
def command(
    settings: Settings, /, places: tuple[str, ...], destination: str, force: bool, **options: Any
) -> Outcome:
    """Copy files and directories of a guest to this host.

    POINT is as for 'puller ls', the same in all arguments. If DEST is a directory or ends with a slash, the
    copies go into it; else it is the name of the only copy. Symbolic links are copied as links. Owners are
    kept if root copies; setuid bits, devices, pipes and sockets are not copied.
    """
    pairs = [split_place(place) for place in places]
    if len({point for point, _ in pairs}) > 1:
        raise UsageError("the paths are of different points", advice="Copy from one point after the other.")
    choices = choices_of(**options)
    repository = open_repository(settings)
    from puller import api

    with observing(settings, RESTORE) as observer:
        done = api.copy_files(
            repository,
            pairs[0][0],
            [path for _, path in pairs],
            destination,
            force=force,
            observer=observer,
            **choices,
        )
    return Outcome(_document(done), _text(done))


def _document(done: CopiedFiles) -> dict[str, Any]:
    return {"point": done.point, "copied": [_record(item) for item in done.copied]}


def _record(item: CopiedPath) -> dict[str, Any]:
    record = {name: getattr(item, name) for name in ("path", "output", "files", "directories", "bytes")}
    return {**record, "skipped": [{"path": lost.path, "reason": lost.reason} for lost in item.skipped]}


def _text(done: CopiedFiles) -> str:
    lines = []
    for item in done.copied:
        files = "1 file" if item.files == 1 else f"{item.files} files"
        lines.append(f"{item.path} -> {item.output}: {files}, {format_bytes(item.bytes)}")
        lines += [f"  {lost.path}: {lost.reason}" for lost in item.skipped[:_SHOWN]]
        if len(item.skipped) > _SHOWN:
            lines.append(f"  and {len(item.skipped) - _SHOWN} more; --json lists all")
    return "\n".join(map(printable_line, lines))


def printable_line(line: str) -> str:
    """``line`` with its indentation, and with names that cannot forge others."""
    text = line.lstrip()
    return line[: len(line) - len(text)] + printable(text)
