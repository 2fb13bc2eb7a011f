"""``puller prove``."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import click

from puller.cli.input.access import open_repository
from puller.cli.input.choices import shard_option
from puller.cli.input.options import Command, hosts_option
from puller.cli.input.quantities import DURATION, MEMORY, Quantity
from puller.cli.output import failures
from puller.cli.output.outcome import Outcome
from puller.cli.output.reporting.measures import RESTORE
from puller.cli.output.reporting.progress import observing
from puller.cli.output.results import proofs
from puller.cli.output.settings import Settings
from puller.configuration.evidence import evidence as read_evidence
from puller.errors import UsageError

EVIDENCE: Quantity[Any] = Quantity("evidence", read_evidence)


@click.command("prove", cls=Command)
@click.argument("points", nargs=-1, metavar="[POINT|DOMAIN]...")
@click.option(
    "--evidence",
    type=EVIDENCE,
    metavar="EVIDENCE",
    help="Wait for this: agent (the guest agent answers), console:TEXT (TEXT appears on a serial console), "
    "tcp:PORT (the guest accepts a connection there) or command:PROGRAM (PROGRAM, called with the domain's "
    "name, exits with 0). Without it, the configuration decides, or else the first of the guest agent and "
    "'login:' on the serial console that the guest offers.",
)
@click.option(
    "--timeout",
    type=DURATION,
    metavar="DURATION",
    help="Wait this long for the evidence, such as 90s or 10min.  [default: 5min]",
)
@click.option(
    "--memory",
    type=MEMORY,
    metavar="MIB",
    help="Give a machine no more memory than this, in MiB, or with a unit (for example 2G). Without it, a "
    "machine gets what its domain has.",
)
@click.option(
    "--parallel", type=click.IntRange(1, 64), metavar="N", help="Hold N drills at once.  [default: 1]"
)
@click.option(
    "--count",
    type=click.IntRange(1),
    metavar="N",
    help="Prove only N of the machines, those whose last drill is longest ago. Without it, all are proven.",
)
@click.option(
    "--max-age",
    type=DURATION,
    metavar="DURATION",
    help="Prove only machines that had no drill for this long (for example 7d), or never. Without it, the "
    "time of the last drill does not matter.",
)
@shard_option("Prove only the machines of part I of N.")
@click.option(
    "--emulate",
    is_flag=True,
    help="Emulate the processor where this host cannot run the machine, which is slow. Without it, only "
    "the file systems of such a machine are checked.",
)
@click.option(
    "--directory",
    metavar="DIR",
    help="Directory for what the machines write.  [default: /var/lib/puller/drills]",
)
@hosts_option("Use only points taken by HOST: a name, or a pattern such as 'kvm*'.")
@click.pass_obj
def command(settings: Settings, /, points: tuple[str, ...], **choices: Any) -> Outcome:
    """Prove that machines start from their restore points.

    Start each machine from its point, isolated from all networks, and wait until it shows life. Store the
    verdict in the repository, and throw everything else away. The exit code is 0 if no machine failed.

    POINT is an id, a unique prefix of one, DOMAIN@latest, or DOMAIN@TIME. DOMAIN means its newest point.
    Without any, prove the newest point of each domain.
    """
    drills = settings.configure().prove
    repository = open_repository(settings)
    from puller import api

    refuse_nothing(choices["timeout"])
    chosen = choices["evidence"]
    with observing(settings, RESTORE) as observer:
        found = api.prove(
            repository,
            points,
            hosts=choices["hosts"],
            count=choices["count"],
            max_age=choices["max_age"],
            shard=choices["shard"],
            evidence=None if chosen is None else str(chosen),
            timeout=choices["timeout"],
            memory=choices["memory"],
            parallel=choices["parallel"],
            emulate=choices["emulate"] or None,
            directory=choices["directory"],
            settings=drills,
            connect=settings.connect or api.DEFAULT_URI,
            observer=observer,
        )
    for domain, error in found.failed:
        if len(found.held) + len(found.failed) > 1:
            failures.complain(failures.translate(error), settings, domain)
    return Outcome(proofs.document(found), proofs.text(found), proofs.failure(found))


def refuse_nothing(timeout: timedelta | None) -> None:
    """Raise UsageError for a timeout of 0, which would mean the default."""
    if timeout is not None and not timeout:
        raise UsageError("cannot wait for 0 seconds", advice="Give --timeout a duration above 0.")
