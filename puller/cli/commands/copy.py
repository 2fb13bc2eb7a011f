"""``puller copy``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from puller.cli.input.access import open_other, open_repository, secret_named_by
from puller.cli.input.choices import COMPRESSION, shard_option, tags_option
from puller.cli.input.options import Command, hosts_option
from puller.cli.input.quantities import MOMENT, RATE
from puller.cli.output import failures
from puller.cli.output.outcome import Outcome
from puller.cli.output.reporting.measures import COPY
from puller.cli.output.reporting.progress import observing
from puller.cli.output.settings import Settings
from puller.cli.output.times import duration
from puller.units import format_bytes, format_count

if TYPE_CHECKING:
    from puller.upkeep.copying.copy import CopiedPoint, CopyReport


@click.command("copy", cls=Command)
@click.argument("points", nargs=-1, metavar="[POINT]...")
@click.option(
    "--to",
    required=True,
    metavar="REPOSITORY",
    help="Copy to this repository: a URL, or a name in the configuration. It must exist.",
)
@click.option(
    "--to-password-file",
    metavar="FILE",
    help="Open the target with the password in FILE.  [default: the configuration's for the target, or else "
    "the secret of the source]",
)
@click.option(
    "--to-key-file",
    metavar="FILE",
    help="Open the target with this key file instead of a password.",
)
@click.option(
    "--domain",
    "domains",
    multiple=True,
    metavar="DOMAIN",
    help="Copy only points of this domain: a name, a pattern or a UUID. Can be repeated.",
)
@tags_option("Copy only points with this tag. If repeated, copy only points that have all of the tags.")
@click.option(
    "--since",
    type=MOMENT,
    metavar="TIME",
    help="Copy only points taken at or after this time (2027-01-31 or 2027-01-31T18:00:00Z), in UTC unless "
    "it names a zone.",
)
@click.option(
    "--latest-only",
    is_flag=True,
    help="Of each machine, copy only the newest point that the other options select.",
)
@shard_option("Of these, copy only the points of the machines in part I of N.")
@hosts_option("Copy only points taken by HOST: a name, or a pattern such as 'kvm*'.")
@COMPRESSION
@click.option(
    "--limit-read",
    type=RATE,
    metavar="RATE",
    help="Limit the rate at which disks are read from the source, in bytes per second before compression "
    "(for example 20M or 500K).  [default: unlimited]",
)
@click.option(
    "--limit-upload",
    type=RATE,
    metavar="RATE",
    help="Limit the average upload rate, in bytes per second (for example 20M or 500K).  [default: "
    "unlimited]",
)
@click.pass_obj
def command(
    settings: Settings,
    /,
    points: tuple[str, ...],
    to: str,
    to_password_file: str | None,
    to_key_file: str | None,
    **choices: Any,
) -> Outcome:
    """Copy restore points to another repository.

    Copy each POINT, or all points if none is given. Points that the target already has are skipped. Only data
    that the target lacks is sent, encrypted with the target's keys. Each copy has the id, the time and the
    tags of its original.

    POINT is an id, a unique prefix of one, DOMAIN@latest, or DOMAIN@TIME (the newest at or before TIME).
    """
    repository = open_repository(settings)
    with secret_named_by("--to"):
        target = open_other(settings, to, to_password_file, to_key_file)
    from puller import api

    with observing(settings, COPY) as observer:
        report = api.copy_points(repository, target, points, observer=observer, **choices)
    return Outcome(document(report), text(report), report.error)


def document(report: CopyReport) -> dict[str, Any]:
    """Return the document of docs/cli.md."""
    return {
        "copied": [
            {
                "point": item.point,
                "chunks_sent": item.chunks_sent,
                "bytes_sent": item.bytes_sent,
                "seconds": round(item.seconds, 3),
            }
            for item in report.copied
        ],
        "present": list(report.present),
        "failed": [{"point": point, "error": failures.document(error)} for point, error in report.failed],
    }


def text(report: CopyReport) -> str:
    """Return the report for people."""
    lines = [*map(_line, report.copied)]
    lines += [f"{point}: not copied: {error.message}" for point, error in report.failed]
    said = f"{format_count(len(report.copied), 'point')} copied"
    said += f", {len(report.present)} already present" if report.present else ""
    said += f", {len(report.failed)} failed" if report.failed else ""
    return "\n".join([*lines, said])


def _line(item: CopiedPoint) -> str:
    sent = f"{format_count(item.chunks_sent, 'chunk')} sent, {format_bytes(item.bytes_sent)}"
    return f"{item.point}: copied in {duration(item.seconds)}: {sent}"
