"""``puller restore``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from puller.cli.commands import definition, inplace
from puller.cli.input.access import open_repository
from puller.cli.input.modes import pairs, refuse_odd, split_disks
from puller.cli.input.options import OF_HOST, Command
from puller.cli.output.outcome import Outcome
from puller.cli.output.reporting.measures import RESTORE
from puller.cli.output.reporting.progress import observing
from puller.cli.output.results.restored import (
    disk_document,
    disk_line,
    lost_documents,
    lost_failure,
    lost_lines,
    without_ends,
)
from puller.cli.output.settings import Settings
from puller.cli.output.streams.console import printable
from puller.errors import UsageError

if TYPE_CHECKING:
    from puller.api import ImageFormat
    from puller.recovery.restore import Restored


@click.command("restore", cls=Command)
@click.argument("point")
@click.option(
    "-o",
    "--output",
    metavar="PATH",
    help="Write to this directory, which is created if needed. With one --disk, PATH can also be a file, "
    "a block device, or an nbd://, nbds:// or nbd+unix:// URI.",
)
@OF_HOST
@click.option(
    "--disk",
    "disks",
    multiple=True,
    metavar="TARGET[=PATH]",
    help="Restore only this disk, such as vda. Can be repeated. With =PATH, restore it to this file, block "
    "device or NBD URI. Without the option, all disks are restored.",
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(["raw", "qcow2"]),
    help="Write files in this format; raw files are sparse. Without it, a file's suffix (.raw, .img, .qcow2) "
    "decides, or else the format that the disk had; raw if it had neither of these.",
)
@click.option(
    "--zero-rest",
    is_flag=True,
    help="Write zeros behind a disk that is shorter than its device. Without it, the rest stays as it is.",
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
@click.option(
    "--in-place",
    is_flag=True,
    help="Roll the domain's own disks back: write only what differs from POINT. The domain must be shut off.",
)
@click.option(
    "--compare",
    is_flag=True,
    help="With --in-place, read the disks to find what differs. Without it, puller takes that from the dirty "
    "bitmaps and the maps of the points, where it can.",
)
@click.option(
    "--backup-first",
    is_flag=True,
    help="With --in-place, first take a restore point of the disks as they are now.",
)
@click.option(
    "--define",
    is_flag=True,
    help="Define the domain on the restored disks: as itself if it is gone, or with --name as a copy.",
)
@click.option(
    "--name",
    metavar="NAME",
    help="With --define, define a copy of this name, with a UUID, MAC addresses, firmware variables and TPM "
    "state of its own.",
)
@click.option(
    "--pool",
    metavar="POOL",
    help="With --define, restore the disks to new volumes of this libvirt storage pool.",
)
@click.option(
    "--network",
    metavar="keep|disconnect|NAME",
    help="With --define, keep the network interfaces, take their cables out, or connect all of them to this "
    "libvirt network.  [default: keep]",
)
@click.option(
    "--map-disk",
    "mapped_disks",
    multiple=True,
    metavar="TARGET=PATH",
    help="With --define, restore this disk to this file or block device. Can be repeated.",
)
@click.option(
    "--map-network",
    "mapped_networks",
    multiple=True,
    metavar="OLD=NEW",
    help="With --define, use the network or bridge NEW in place of OLD. Can be repeated.",
)
@click.option("--start", is_flag=True, help="With --define, start the domain.")
@click.option(
    "--dry-run",
    is_flag=True,
    help="With --in-place, show how much differs; with --define, print the XML. Write nothing.",
)
@click.pass_obj
def command(  # noqa: PLR0913, PLR0917 - one parameter for each choice that a user has
    settings: Settings,
    point: str,
    output: str | None,
    hosts: tuple[str, ...],
    disks: tuple[str, ...],
    format_: ImageFormat | None,
    zero_rest: bool,
    force: bool,
    salvage: bool,
    in_place: bool,
    compare: bool,
    backup_first: bool,
    dry_run: bool,
    define: bool,
    name: str | None,
    pool: str | None,
    network: str | None,
    mapped_disks: tuple[str, ...],
    mapped_networks: tuple[str, ...],
    start: bool,
) -> Outcome:
    """Restore the disks of a point, or roll a domain back.

    Without --in-place and --define, the disks become files, or go to devices and NBD exports. POINT is an
    id, a unique prefix of one, DOMAIN@latest, or DOMAIN@TIME (the newest at or before TIME).
    """
    refuse_odd(
        {"--in-place": in_place, "--define": define},
        {
            "--output": (output is not None, ["--define"]),
            "--force": (force, ["--define"]),
            "--format": (format_ is not None, ["--define"]),
            "--zero-rest": (zero_rest, []),
            "--disk TARGET=PATH": (any("=" in disk for disk in disks), ["--define"]),
            "--salvage": (salvage, ["--in-place"]),
        },
        {
            "--compare": (compare, ["--in-place"]),
            "--backup-first": (backup_first, ["--in-place"]),
            "--dry-run": (dry_run, ["--in-place", "--define"]),
            "--name": (name is not None, ["--define"]),
            "--pool": (pool is not None, ["--define"]),
            "--network": (network is not None, ["--define"]),
            "--map-disk": (bool(mapped_disks), ["--define"]),
            "--map-network": (bool(mapped_networks), ["--define"]),
            "--start": (start, ["--define"]),
        },
    )
    if in_place:
        return inplace.roll_back(
            settings, point, hosts, disks, compare, dry_run, salvage, backup_first=backup_first
        )
    targets, places = split_disks(disks, mapped_disks)
    if define:
        if output is None and pool is None and not places:
            raise UsageError(
                "restore --define needs --output, --pool or --map-disk",
                advice="Name a directory for the disks with --output.",
            )
        choices = {
            "output": output,
            "name": name,
            "pool": pool,
            "hosts": hosts,
            "disks": targets,
            "places": places,
            "format": format_,
            "network": "keep" if network is None else network,
            "map_networks": pairs("--map-network", mapped_networks),
            "start": start,
            "dry_run": dry_run,
            "force": force,
        }
        return definition.recreate(settings, point, choices)
    if output is None and not places:
        raise UsageError(
            "restore needs --output, --disk TARGET=PATH or --in-place",
            advice="Name a directory with --output, or roll the domain's own disks back with --in-place.",
        )
    repository = open_repository(settings)
    from puller import api

    with observing(settings, RESTORE) as told:
        observer = without_ends(told, settings)
        restored = api.restore(
            repository,
            point,
            output=output,
            hosts=hosts,
            disks=targets,
            places=places,
            format=format_,
            force=force,
            salvage=salvage,
            zero_rest=zero_rest,
            connect=settings.connect or api.DEFAULT_URI,
            observer=observer,
        )
    return Outcome(
        _document(restored, salvage), _text(restored), lost_failure(restored.point, restored.damage)
    )


def _document(restored: Restored, salvage: bool) -> dict[str, Any]:
    disks = [disk_document(done) for done in restored.disks]
    lost = {"damage": lost_documents(restored.damage)} if salvage else {}
    return {"point": restored.point, "disks": disks, **lost}


def _text(restored: Restored) -> str:
    lines = [] if restored.disks else [f"point {restored.point} has no disks: restored its configuration"]
    lines += [*map(disk_line, restored.disks), *lost_lines(restored.damage)]
    return "\n".join(map(printable, lines))
