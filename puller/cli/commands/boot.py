"""``puller boot``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from puller.cli.input.access import open_repository
from puller.cli.input.modes import refuse_odd
from puller.cli.input.options import OF_HOST, Command
from puller.cli.input.quantities import MEMORY, RATE
from puller.cli.output.outcome import Outcome
from puller.cli.output.reporting.measures import PULL
from puller.cli.output.reporting.progress import observing
from puller.cli.output.results.records import moment
from puller.cli.output.results.tables import table
from puller.cli.output.settings import Settings
from puller.cli.output.streams.console import printable
from puller.cli.output.times import duration
from puller.cli.signals import Stopped
from puller.errors import Interrupted, NotBooted, PullerError, UsageError
from puller.events import Notice, Observer

if TYPE_CHECKING:
    from puller.recovery.booting.listing import ListedMachine
    from puller.recovery.booting.record import Booted
    from puller.repository.repository import Repository


@click.command("boot", cls=Command)
@click.argument("point", required=False)
@click.option(
    "--name",
    metavar="NEW",
    help="Name the machine NEW. Without the option, it has the domain's name with -boot.",
)
@click.option(
    "--network",
    metavar="none|NAME",
    help="Take the cables of all network interfaces out, or connect them to this libvirt network.  "
    "[default: none]",
)
@click.option(
    "--memory",
    type=MEMORY,
    metavar="MIB",
    help="Give the machine this memory, in MiB, or with a unit (for example 2G). Without the option, it has "
    "what the domain had.",
)
@click.option(
    "--storage",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Put what the guest writes into a directory of the machine's name in DIR.  [default: "
    "/var/lib/puller/booted]",
)
@click.option(
    "--keep",
    is_flag=True,
    help="Pull all data in behind the running guest, and wait until the machine stands alone. If puller "
    "ends before, QEMU goes on; --resume waits again. Without the option, the machine needs the repository.",
)
@click.option(
    "--limit",
    type=RATE,
    metavar="RATE",
    help="Limit the rate of --keep, in bytes per second (for example 20M or 500K).  [default: no limit]",
)
@OF_HOST
@click.option("--list", "list_", is_flag=True, help="List the booted machines of this host.")
@click.option(
    "--resume",
    metavar="NAME",
    help="Put the machine NAME together again, after a restart of the host for example: start its image "
    "server and its domain, and wait for the end of --keep.",
)
@click.option(
    "--discard",
    metavar="NAME",
    help="Remove the machine NAME and all that its guest has written.",
)
@click.pass_obj
def command(  # noqa: PLR0913, PLR0917 - one parameter for each choice that a user has
    settings: Settings,
    point: str | None,
    name: str | None,
    network: str | None,
    memory: int | None,
    storage: Path | None,
    keep: bool,
    limit: int | None,
    hosts: tuple[str, ...],
    list_: bool,
    resume: str | None,
    discard: str | None,
) -> Outcome:
    """Boot a machine from a restore point within seconds.

    The guest reads its disks from the repository, and writes to overlays on this host. It is a copy with a
    name, UUID and MAC addresses of its own. With --keep, the data follows behind the running guest: instant
    recovery.

    POINT is an id, a unique prefix of one, DOMAIN@latest, or DOMAIN@TIME (the newest at or before TIME).
    """
    refuse_odd(
        {"--list": list_, "--resume": resume is not None, "--discard": discard is not None},
        {
            "POINT": (point is not None, []),
            "--name": (name is not None, []),
            "--network": (network is not None, []),
            "--memory": (memory is not None, []),
            "--storage": (storage is not None, []),
            "--host": (bool(hosts), []),
            "--keep": (keep, ["--resume"]),
            "--limit": (limit is not None, ["--resume"]),
        },
        {},
    )
    if list_:
        return _listed()
    if discard is not None:
        return _discarded(settings, discard)
    if resume is not None:
        return _resumed(settings, resume, keep, limit)
    if point is None:
        raise UsageError(
            "boot needs a POINT, --list, --resume or --discard",
            advice="Name a restore point; 'puller points' lists them.",
        )
    if limit is not None and not keep:
        raise UsageError("--limit needs --keep", advice="Add --keep, or leave --limit out.")
    choices = {
        "name": name,
        "network": network or "none",
        "memory": memory,
        "storage": None if storage is None else str(storage),
        "hosts": hosts,
    }
    return _booted(settings, point, keep, limit, choices)


def _booted(
    settings: Settings, point: str, keep: bool, limit: int | None, choices: dict[str, Any]
) -> Outcome:
    repository = open_repository(settings)
    from puller import api

    failure = None
    with observing(settings, PULL) as observer:
        made = api.boot(
            repository, point, connect=settings.connect or api.DEFAULT_URI, observer=observer, **choices
        )
        name = made.record.name
        if keep:
            observer(Notice(name, f"runs from point {made.record.point}; its data follows"))
            failure = _pulled(repository, name, limit, observer)
    booted = api.find_booted(name)
    text = f"{name} {_how(booted)} (started in {duration(made.seconds)})"
    return Outcome({**document(booted), "seconds": round(made.seconds, 3)}, printable(text), failure)


def _pulled(repository: Repository, name: str, limit: int | None, observer: Observer) -> PullerError | None:
    """Pull the machine's data. If that fails, the machine runs all the same."""
    from puller import api

    try:
        api.pull_booted(repository, name, limit=limit, observer=observer)
    except NotBooted:  # discarded meanwhile
        raise
    except PullerError as error:
        return error
    except Stopped as stop:
        return Interrupted(
            f"stopped by {stop.signal}: {name} runs, and QEMU pulls the current disk to its end",
            advice=f"Run 'puller boot --resume {name}' to pull the rest.",
        )
    return None


def _resumed(settings: Settings, name: str, keep: bool, limit: int | None) -> Outcome:
    from puller import api

    booted = api.find_booted(name)
    repository = _repository_of(settings, booted)
    with observing(settings, PULL) as observer:
        booted = api.resume_booted(repository, name, observer=observer)
        failure = None
        if keep or booted.state == "pulling":
            failure = _pulled(repository, name, limit, observer)
    booted = api.find_booted(name)
    return Outcome(document(booted), printable(f"{name} {_how(booted)}"), failure)


def _discarded(settings: Settings, name: str) -> Outcome:
    from puller import api

    booted = api.find_booted(name)
    with observing(settings, PULL) as observer:
        repository = None
        try:
            repository = _repository_of(settings, booted) if booted.keep else None
        except PullerError as error:
            observer(Notice(name, f"cannot open its repository: {error.message}"))
        api.discard_booted(name, repository=repository, observer=observer)
    return Outcome({"discarded": name}, printable(f"removed {name} and all that its guest has written"))


def _listed() -> Outcome:
    from puller import api

    machines = api.list_booted()
    document_ = {"booted": [_listed_document(machine) for machine in machines]}
    if not machines:
        return Outcome(document_, "no machine was booted from a restore point")
    rows = [
        [one.record.name, _state(one), one.record.point, "yes" if one.served else "no", one.record.storage]
        for one in machines
    ]
    return Outcome(document_, table(["NAME", "STATE", "POINT", "SERVED", "STORAGE"], rows))


def _repository_of(settings: Settings, booted: Booted) -> Repository:
    """Open the machine's repository, unless the user names one."""
    if not settings.repository:
        settings.repository = booted.repository
    return open_repository(settings)


def document(booted: Booted) -> dict[str, Any]:
    """Return the document of docs/cli.md."""
    return {
        "domain": booted.name,
        "uuid": booted.uuid,
        "point": booted.point,
        "state": booted.state,
        "overlays": {disk.disk: disk.overlay for disk in booted.disks},
    }


def _listed_document(machine: ListedMachine) -> dict[str, Any]:
    booted = machine.record
    return {
        **document(booted),
        "active": machine.active,
        "served": machine.served,
        "repository": booted.repository,
        "storage": booted.storage,
        "created": moment(booted.created),
    }


def _how(booted: Booted) -> str:
    return "stands alone" if booted.state == "standalone" else f"runs from point {booted.point}"


def _state(machine: ListedMachine) -> str:
    state = "standing alone" if machine.record.state == "standalone" else machine.record.state
    return f"{state}, off" if machine.active is False else state
