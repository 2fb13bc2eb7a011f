"""The machines of ``puller status``: as JSON, and as a table."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from puller.cli.output.results.records import moment
from puller.cli.output.results.tables import table
from puller.cli.output.times import age, rfc3339

if TYPE_CHECKING:
    from puller.overview.machine import MachineStatus

_HEADS = ("DOMAIN", "HOST", "JOB", "STATE", ">LAST POINT", "EVERY", ">LAST PROOF", "VERDICT", ">PROVEN STATE")


def document(machine: MachineStatus) -> dict[str, Any]:
    """Return the members of one machine."""
    every = machine.interval
    return {
        "domain": machine.domain,
        "uuid": machine.uuid,
        "host": machine.host,
        "repository": machine.repository,
        "job": machine.job or None,
        "last_point": machine.last_point,
        "last_time": rfc3339(machine.last_time),
        "interval": None if every is None else round(every.length.total_seconds()),
        "interval_declared": every is not None and every.is_declared,
        "late": machine.late,
        "last_proof": moment(machine.last_proof),
        "verdict": machine.verdict,
        "proven_point": machine.proven_point,
        "proven_time": moment(machine.proven_time),
    }


def listing(machines: Sequence[MachineStatus], now: datetime) -> str:
    """Return a table with a line for each machine; its ages are those of ``now``.

    Machines of several repositories have a column for that, because a machine and its copy differ in nothing
    else.
    """
    if not machines:
        return "no restore points"
    rows = [_row(machine, now) for machine in machines]
    if len({machine.repository for machine in machines}) == 1:
        return table(_HEADS, rows)
    return table(
        (*_HEADS, "REPOSITORY"),
        [(*row, machine.repository) for row, machine in zip(rows, machines, strict=True)],
    )


def _row(machine: MachineStatus, now: datetime) -> tuple[str, ...]:
    return (
        machine.domain,
        machine.host,
        machine.job or "-",
        "LATE" if machine.late else "ok",
        f"{age(machine.last_time, now)} ago",
        _every(machine, now),
        "never" if machine.last_proof is None else f"{age(machine.last_proof, now)} ago",
        machine.verdict or "-",
        "none" if machine.proven_time is None else f"{age(machine.proven_time, now)} old",
    )


def _every(machine: MachineStatus, now: datetime) -> str:
    """The interval; ``about`` if it is estimated."""
    if machine.interval is None:
        return "unknown"
    length = age(now - machine.interval.length, now)
    return length if machine.interval.is_declared else f"about {length}"
