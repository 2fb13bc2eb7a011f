"""The image server of a booted machine: its supervisor calls this command, people do not."""

from __future__ import annotations

from pathlib import Path

import click

from puller.cli.input.options import Bare
from puller.cli.output.outcome import Outcome
from puller.cli.output.reporting.measures import PULL
from puller.cli.output.reporting.progress import observing
from puller.cli.output.settings import Settings


@click.command("serve_booted", cls=Bare, hidden=True)
@click.argument("folder", type=click.Path(path_type=Path))
@click.pass_obj
def command(settings: Settings, folder: Path) -> Outcome:
    """Serve the disks of the machine whose record is in FOLDER.

    A mistake that somebody makes in the configuration later must not take the guest's disks away, so it is
    not read.
    """
    from puller.recovery.booting.image_server import serve

    with observing(settings, PULL) as observer:
        serve(folder, observer)
    return Outcome()
