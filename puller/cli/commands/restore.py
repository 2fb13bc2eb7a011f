"""``puller restore``."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from puller.cli.input.access import open_repository
from puller.cli.input.options import OF_HOST, Command
from puller.cli.output.console import is_heard_by_programs, printable
from puller.cli.output.measures import RESTORE
from puller.cli.output.outcome import Outcome
from puller.cli.output.progress import observing
from puller.cli.output.settings import Settings
from puller.cli.output.times import duration
from puller.errors import DamagedData
from puller.events import DiskDone, Event, Observer
from puller.units import format_bytes

if TYPE_CHECKING:
    from puller.api import ImageFormat
    from puller.recovery.restore import Restored


@click.command("restore", cls=Command)
@click.argument("point")
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="PATH",
    help="Write to this directory, which is created if needed. With one --disk, PATH can also be a file, "
    "a block device, or an nbd://, nbds:// or nbd+unix:// URI.",
)
@OF_HOST
@click.option(
    "--disk",
    "disks",
    multiple=True,
    metavar="TARGET",
    help="Restore only this disk, such as vda. Can be repeated. Without it, all disks are restored.",
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(["raw", "qcow2"]),
    default="raw",
    show_default=True,
    help="Write files in this format; raw files are sparse.",
)
@click.option(
    "--force",
    is_flag=True,
    help="Replace existing files and overwrite a block device, but never one that is in use. Without it, "
    "they are refused.",
)
@click.option(
    "--salvage",
    is_flag=True,
    help="Write a damaged disk too, with zeros in place of lost data, and exit with 13. Without it, a "
    "damaged disk is not written.",
)
@click.pass_obj
def command(  # noqa: PLR0913, PLR0917 - one parameter for each choice that a user has
    settings: Settings,
    point: str,
    output: str,
    hosts: tuple[str, ...],
    disks: tuple[str, ...],
    format_: ImageFormat,
    force: bool,
    salvage: bool,
) -> Outcome:
    """Restore the disks of a point to files, a device or NBD.

    POINT is an id, a unique prefix of one, DOMAIN@latest, or DOMAIN@TIME (the newest at or before TIME).
    """
    repository = open_repository(settings)
    from puller import api

    with observing(settings, RESTORE) as told:
        observer = told if settings.json or is_heard_by_programs() else _without_ends(told)
        restored = api.restore(
            repository,
            point,
            output=output,
            hosts=hosts,
            disks=disks,
            format=format_,
            force=force,
            salvage=salvage,
            connect=settings.connect or api.DEFAULT_URI,
            observer=observer,
        )
    return Outcome(_document(restored, salvage), _text(restored), _failure(restored))


def _without_ends(observer: Observer) -> Observer:
    """``observer``, not told of the disks that are done: the results say the same of each."""

    def observe(event: Event) -> None:
        if not isinstance(event, DiskDone):
            observer(event)

    return observe


def _document(restored: Restored, salvage: bool) -> dict[str, Any]:
    disks = [{**asdict(done), "seconds": round(done.seconds, 3)} for done in restored.disks]
    damage = [
        {"disk": disk, "offset": lost.offset, "length": lost.length, "message": lost.reason}
        for disk, lost in restored.damage
    ]
    return {"point": restored.point, "disks": disks, **({"damage": damage} if salvage else {})}


def _text(restored: Restored) -> str:
    lines = [] if restored.disks else [f"point {restored.point} has no disks: restored its configuration"]
    lines += [
        f"{done.disk}: {done.output} ({format_bytes(done.bytes_written)} written in {duration(done.seconds)})"
        for done in restored.disks
    ]
    lines += [
        f"{disk}: lost bytes {lost.offset} to {lost.offset + lost.length - 1}: {lost.reason}"
        for disk, lost in restored.damage
    ]
    return "\n".join(map(printable, lines))


def _failure(restored: Restored) -> DamagedData | None:
    if not restored.damage:
        return None
    disks = ", ".join(sorted({disk for disk, _ in restored.damage}))
    lost = format_bytes(sum(damage.length for _, damage in restored.damage))
    return DamagedData(
        f"lost {lost} of point {restored.point} (disk {disks}): the output has zeros in their place",
        advice="Restore another point if you can: 'puller check --read-data' shows which points are intact.",
    )
