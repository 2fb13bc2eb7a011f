"""``puller show``."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from puller.cli.input.access import open_repository
from puller.cli.input.options import OF_HOST, Command
from puller.cli.output.outcome import Outcome
from puller.cli.output.results.records import description, full_record
from puller.cli.output.settings import Settings
from puller.errors import OutputRefused, UsageError

if TYPE_CHECKING:
    from puller.repository.records.proofs import Proof


@click.command("show", cls=Command)
@click.argument("point")
@click.option(
    "--screenshot",
    metavar="FILE",
    help="Also write the screenshot of the point's last restore drill to this new file, as PNG.",
)
@OF_HOST
@click.pass_obj
def command(settings: Settings, point: str, screenshot: str | None, hosts: tuple[str, ...]) -> Outcome:
    """Show all details of a restore point.

    POINT is an id, a unique prefix of one, DOMAIN@latest, or DOMAIN@TIME (the newest at or before TIME).
    """
    repository = open_repository(settings)
    found, now = repository.points.select(point, hosts), datetime.now(UTC)
    name = (found.uuid, found.point)
    keep = repository.keeps.holding(now, *name).get(name)
    proof = repository.proofs.newest(*name).get(name)
    if screenshot is not None:
        _write(screenshot, proof)
    return Outcome(full_record(found, keep, proof), description(found, now, keep, proof))


def _write(path: str, proof: Proof | None) -> None:
    """Write the picture, which is guest data, readable for this user only."""
    if proof is None or proof.screenshot is None:
        raise UsageError(
            "cannot write a screenshot: the point has none",
            advice="Run 'puller prove' for the point; a guest without a video card has no screen.",
        )
    try:
        with os.fdopen(
            os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb"
        ) as file:
            file.write(proof.screenshot)
    except OSError as error:
        raise OutputRefused(
            f"cannot write {path}: {error.strerror}", advice="Name a new file in a writable directory."
        ) from error
