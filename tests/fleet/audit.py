"""What a report says of a fleet, and what its points restore to, compared with the truth."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import date, datetime
from pathlib import Path
from typing import Any

from puller import api
from puller.errors import PullerError
from puller.repository.points import Point
from puller.repository.repository import Repository
from tests.fleet.model import LATE, Ledger, wrong_cells, wrong_status
from tests.lab.history import Disk, content, is_whole

Ledgers = Mapping[str, Ledger]
"""The truth about each repository; two of them."""


def wrong(ledgers: Ledgers, told: Mapping[str, Any], now: datetime) -> Iterator[str]:
    """Yield what the document ``told`` of a report says that is not so."""
    days = [date.fromisoformat(day) for day in told["days"]]
    shown = {(entry["repository"], entry["uuid"]) for entry in told["domains"]}
    for name, ledger in ledgers.items():
        url = f"simulated:{name}"
        (other,) = (one for one in ledgers.values() if one is not ledger)
        missing = {(url, point.uuid) for point in ledger.present} - shown
        yield from (f"{uuid} is not in the report" for _, uuid in missing)
        for entry in (entry for entry in told["domains"] if entry["repository"] == url):
            faults = wrong_cells(ledger, other, entry, days, now) + wrong_status(ledger, entry, days[0], now)
            yield from (f"{name}: {entry['domain']}: {fault}" for fault in faults)
    yield from _wrong_hosts(ledgers, told, now)


def _wrong_hosts(ledgers: Ledgers, told: Mapping[str, Any], now: datetime) -> Iterator[str]:
    """A machine in both repositories counts once, and is late if it is late in both."""
    late: dict[str, dict[str, bool]] = {}
    for ledger in ledgers.values():
        for uuid in {point.uuid for point in ledger.present}:
            newest = ledger.machine(uuid)[-1]
            machines = late.setdefault(newest.host, {})
            machines[uuid] = machines.get(uuid, True) and now - newest.time > LATE
    true = {host: (len(each), sum(each.values()), all(each.values())) for host, each in late.items()}
    said = {host["host"]: (host["machines"], host["late"], host["silent"]) for host in told["hosts"]}
    if said != true:
        yield f"hosts are {said}, not {true}"


def restores(repository: Repository, point: Point, disk: Disk, folder: Path) -> bool:
    """Whether the point restores into files exactly, and holds its attachment."""
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(PullerError):
        api.restore(repository, point.point, output=str(folder), format="raw", connect="test:///default")
        (image,) = folder.glob("vda*")
        return image.read_bytes() == content(disk) and is_whole(repository, point, disk)
    return False
