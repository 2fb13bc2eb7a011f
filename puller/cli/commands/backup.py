"""``puller backup``."""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from threading import Thread
from typing import TYPE_CHECKING, Any

import click

from puller.cli.input.access import open_repository
from puller.cli.input.choices import COMPRESSION, tags_option
from puller.cli.input.guest import of_guest
from puller.cli.input.options import Command
from puller.cli.input.quantities import AMOUNT, PACE, RATE, RUN_MEMORY
from puller.cli.libraries import loading
from puller.cli.output.outcome import Outcome
from puller.cli.output.reporting.measures import BACKUP
from puller.cli.output.reporting.progress import observing
from puller.cli.output.results import taken
from puller.cli.output.settings import Settings
from puller.events import Event, Kept, Observer

if TYPE_CHECKING:
    from puller.repository.points import Point


def _load_meanwhile() -> None:
    """Import the modules of a backup while the key is derived, which does not hold the interpreter."""

    def load() -> None:
        with suppress(ImportError):  # reported where the module is needed
            import_module("puller.backups.backup")

    with loading():  # first, because two threads that load modules slow each other down
        import_module("puller.api.repositories")
    Thread(target=load, name="imports", daemon=True).start()


@click.command("backup", cls=Command)
@click.argument("domains", nargs=-1, required=True, metavar="DOMAIN...")
@click.option(
    "--disk",
    "disks",
    multiple=True,
    metavar="TARGET",
    help="Back up only this disk, such as vda. Can be repeated. Without it, all supported disks are "
    "backed up; a notice names those left out.",
)
@click.option(
    "--exclude-disk",
    "exclude",
    multiple=True,
    metavar="TARGET",
    help="Leave out this disk, such as vdb. Can be repeated.",
)
@click.option(
    "--full",
    is_flag=True,
    help="Read all data of every disk, without reference to an earlier restore point. Without --full and "
    "--compare, puller reads only changed data of each disk whose dirty bitmap it can trust.",
)
@click.option(
    "--compare",
    is_flag=True,
    help="Read all data of every disk without use of the dirty bitmaps, and store only what differs from the "
    "last restore point.",
)
@click.option(
    "--mode",
    type=click.Choice(["pull", "push"]),
    default="pull",
    show_default=True,
    help="Choose who copies the frozen disks: pull (puller reads them over NBD) or push (QEMU writes "
    "images, which puller then reads).",
)
@of_guest
@click.option(
    "--scratch-dir",
    metavar="DIR",
    help="Directory for the scratch images that hold overwritten guest data while the backup runs.  "
    "[default: the directory of the domain's first image]",
)
@click.option(
    "--staging-dir",
    metavar="DIR",
    help="Directory for the images of a push until they are stored.  [default: the scratch directory]",
)
@click.option("--keep-staging", is_flag=True, help="Keep the pushed images and print their paths.")
@click.option(
    "--no-checkpoint",
    "checkpoint",
    flag_value=False,
    type=bool,
    default=True,
    help="Create no checkpoint. Later backups build on the checkpoints that exist, and read all data of a "
    "disk that has none.",
)
@click.option(
    "--attach-limit",
    type=AMOUNT,
    metavar="SIZE",
    help="Store CD-ROM images and floppy disks in the domain's drives up to this size, in bytes (for example "
    "1M or 700M; 0 for none). A notice names the larger ones.  [default: 16M]",
)
@tags_option("Store this tag in the restore point. Can be repeated.")
@COMPRESSION
@click.option(
    "--pace",
    type=PACE,
    metavar="gentle|full|RATE",
    default="gentle",
    show_default=True,
    help="Choose how fast disks are read: gentle (fewer reads at once while they are slow, and compression "
    "at a low priority, so that guests keep their speed), full (as fast as possible), or RATE: gently, and "
    "all disks together at most at this rate, in bytes per second (for example 20M or 500K).",
)
@click.option(
    "--limit-upload",
    type=RATE,
    metavar="RATE",
    help="Limit the average upload rate, in bytes per second (for example 20M or 500K).  [default: "
    "unlimited]",
)
@click.option(
    "--memory",
    type=RUN_MEMORY,
    metavar="SIZE",
    help="Limit the memory that the backup of one domain uses, in bytes, 256M or more. More memory allows "
    "more uploads at once to a distant store.  [default: 384M]",
)
@click.option(
    "--nbd-tls",
    metavar="DIR",
    help="Read disks of another host over TLS, with the certificates in DIR: ca-cert.pem, client-cert.pem "
    "and client-key.pem.  [default: through ssh]",
)
@click.option(
    "--nbd-ports",
    metavar="FIRST-LAST",
    help="Let QEMU listen at one of these TCP ports for --nbd-tls.  [default: 10809-10872]",
)
@click.option(
    "--nbd-address",
    metavar="ADDRESS",
    help="Let QEMU listen at this address of its host for --nbd-tls.  [default: that of --connect]",
)
@click.option(
    "--insecure-nbd",
    is_flag=True,
    help="Read disks of another host over TCP in clear text. Everybody on the network can read them, and "
    "everybody who reaches the port during the backup can read the disks.",
)
@click.pass_obj
def command(settings: Settings, /, domains: tuple[str, ...], **choices: Any) -> Outcome:
    """Back up domains: take one restore point of each DOMAIN.

    DOMAIN is a name or a UUID. The domain may be running or shut off. Domains are backed up one after the
    other; if one fails, the others are still backed up.
    """
    _load_meanwhile()
    repository = open_repository(settings)
    from puller import api
    from puller.jobs.batch import take_all

    connect = settings.connect or api.DEFAULT_URI
    names = list(dict.fromkeys(domains))

    def take(domain: str, observer: Observer) -> Point:
        return api.backup(repository, domain, connect=connect, observer=observer, **choices)

    if len(names) > 1:
        choices["exclude_if_present"] = choices.pop("exclude")  # each domain has its own disks
    kept: list[dict[str, str]] = []
    with observing(settings, BACKUP) as tell:

        def observe(event: Event) -> None:
            if isinstance(event, Kept):
                kept.append({"domain": event.subject, "disk": event.disk, "path": event.path})
            tell(event)

        done = take_all(names, take, taken.audience(settings, observe, complaining=len(names) > 1))
    extra = {"kept": kept} if choices["keep_staging"] else {}
    return Outcome({**taken.document(done), **extra}, taken.text(done), taken.failure(done))
