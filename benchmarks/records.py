"""Commands that read the records of many points: a fleet's repository in SeaweedFS.

    python -m benchmarks.records                 # 2,000 points of 200 domains

The points share one small disk: what counts here are the records, not the data.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import NAMESPACE_OID, uuid5

import msgspec

import puller
from benchmarks.cloud import BUCKET, Cloud
from benchmarks.cost import Cost, Meter
from benchmarks.stage import PASSWORD
from puller.cancelling import CancelScope
from puller.repository.points import new_id
from puller.store.parallel import each
from puller.units import CHUNK, MIB
from tests.lab.archive import make_point

MEMORY = 150
LIMITS = {"points": 3.0, "stats": 6.0, "prune --dry-run --keep-daily 7": 6.0}
_WRITERS = 8


def fill(repository: puller.Repository, points: int, domains: int) -> None:
    """Commit points of many domains, one a day of each."""
    first = make_point(repository, {"vda": os.urandom(4 * CHUNK), "vdb": os.urandom(CHUNK)})
    now = datetime.now(UTC).replace(microsecond=0)

    def commit(scope: CancelScope, number: int) -> None:
        name, age = f"machine{number % domains}", timedelta(days=number // domains, seconds=number % domains)
        point = copy_of(first, name, now - age)
        repository.points.within(scope).commit(point)

    for _ in each(repository.scope, commit, range(points - 1), _WRITERS):
        pass


def copy_of(first: puller.Point, domain: str, moment: datetime) -> puller.Point:
    """Return the same point as one of another domain and moment."""
    uuid = str(uuid5(NAMESPACE_OID, domain))
    return msgspec.structs.replace(first, point=new_id(moment), domain=domain, uuid=uuid, time=moment)


@contextmanager
def variables(new: Mapping[str, str]) -> Iterator[None]:
    """Set variables of this process for a while."""
    before = dict(os.environ)
    os.environ.update(new)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def verdict(work: str, cost: Cost) -> str:
    limit = LIMITS[work]
    holds = cost.wall <= limit and cost.peak <= MEMORY * MIB
    return (
        f"{work:<34} {cost.wall:6.2f} s  {cost.cpu:5.2f} CPU-s  store {cost.store:5.2f}  "
        f"{cost.requests:6} requests  {cost.peak / MIB:4.0f} MiB  "
        f"<= {limit:.0f} s, {MEMORY} MiB: {'holds' if holds else 'MISSED'}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--points", type=int, default=2000)
    parser.add_argument("--domains", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    url = f"s3://{BUCKET}/records"
    with (
        tempfile.TemporaryDirectory(prefix="pr-", dir="/var/tmp") as folder,
        Cloud(Path(folder, "cloud")) as cloud,
    ):
        own = {"PULLER_PASSWORD": PASSWORD, "PULLER_CACHE_DIR": f"{folder}/cache"}
        environment = cloud.environment() | own
        with variables(environment):
            fill(puller.create_repository(url, password=PASSWORD), options.points, options.domains)
        meter = Meter(Path(folder), os.environ | environment, None, cloud)
        program = str(Path(sys.executable).with_name("puller"))
        for _ in range(options.rounds):
            for work in LIMITS:
                cost = meter.run([program, "-r", url, *work.split()])
                print(f"{verdict(work, cost)}  load {os.getloadavg()[0]:.1f}", flush=True)


if __name__ == "__main__":
    main()
