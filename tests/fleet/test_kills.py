"""Kills of a worker, the scheduler and the client, with real processes and a real Dask cluster.

The verdict stays the same, no pack is left out, and none is read twice but those that were under way.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence

import pytest

from tests.fleet.conftest import PACKS, Fleet, children_of, document, end, is_alive, until

DAMAGED = 1


def is_whole(fleet: Fleet, recorded: Sequence[str], reads: int, found: dict[str, object]) -> None:
    """The packs in ``recorded`` were verified when ``reads`` were made and something was killed."""
    errors = found["errors"]
    assert isinstance(errors, list)
    assert [error["domain"] is not None for error in errors] == [True] * DAMAGED
    assert len(set(fleet.reads())) == PACKS, "no pack was left out"
    assert not set(fleet.reads()[reads:]).intersection(recorded), "what was recorded is not read again"
    assert len(fleet.recorded()) == PACKS - DAMAGED
    assert found["packs_left"] == 0


def at_the_limit(fleet: Fleet) -> tuple[list[str], int]:
    """Wait until all workers stand still; return what is recorded, and the number of reads."""
    fleet.await_limit()
    return list(fleet.recorded()), len(fleet.reads())


# --- processes of one host ------------------------------------------------------------------------


def test_a_worker_of_the_pool_is_killed(fleet: Fleet) -> None:
    client = fleet.check("local:2")
    recorded, reads = at_the_limit(fleet)
    workers = children_of(client.pid)
    assert len(workers) == 2
    os.kill(min(workers), signal.SIGKILL)
    until(lambda: not any(map(is_alive, workers)))
    fleet.go()
    found = document(client, 13)
    is_whole(fleet, recorded, reads, found)
    assert found["packs_verified"] == PACKS - DAMAGED


def test_the_client_of_a_pool_is_killed_and_its_workers_end(fleet: Fleet) -> None:
    client = fleet.check("local:2")
    recorded, reads = at_the_limit(fleet)
    workers = children_of(client.pid)
    os.kill(client.pid, signal.SIGKILL)
    until(lambda: not any(map(is_alive, workers)))
    fleet.go()
    is_whole(fleet, recorded, reads, document(fleet.check("local:2"), 13))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_client_and_all_workers(fleet: Fleet, number: signal.Signals) -> None:
    client = fleet.check("local:2")
    fleet.await_limit()
    workers = children_of(client.pid)
    if number is signal.SIGINT:
        os.killpg(client.pid, number)  # as a terminal does
    else:
        os.kill(client.pid, number)
    assert document(client, 130)["error"]["name"] == "Interrupted"
    until(lambda: not any(map(is_alive, workers)))


# --- a Dask cluster -------------------------------------------------------------------------------


class Cluster:
    def __init__(self, fleet: Fleet, address: str) -> None:
        pytest.importorskip("distributed")
        self._fleet = fleet
        self.address = address
        self.workers: list[subprocess.Popen[str]] = []
        self.start_scheduler()
        for _ in range(2):
            self.add_worker()

    def start_scheduler(self) -> None:
        host, port = self.address.split(":")
        words = ("--host", host, "--port", port, "--no-dashboard", "--no-show")
        self.scheduler = self._fleet.start("distributed.cli.dask_scheduler", *words)

    def add_worker(self) -> None:
        words = (f"tcp://{self.address}", "--nthreads", "1", "--no-nanny", "--no-dashboard")
        self.workers.append(self._fleet.start("distributed.cli.dask_worker", *words))

    def check(self) -> subprocess.Popen[str]:
        return self._fleet.check(f"dask://{self.address}")


@pytest.fixture
def cluster(fleet: Fleet, address: str) -> Cluster:
    return Cluster(fleet, address)


def test_a_worker_of_the_cluster_is_killed(fleet: Fleet, cluster: Cluster) -> None:
    client = cluster.check()
    recorded, reads = at_the_limit(fleet)
    end(cluster.workers[0])
    fleet.go()
    found = document(client, 13)
    is_whole(fleet, recorded, reads, found)
    assert found["packs_verified"] == PACKS - DAMAGED


def test_the_scheduler_is_killed_and_comes_back(fleet: Fleet, cluster: Cluster) -> None:
    client = cluster.check()
    recorded, reads = at_the_limit(fleet)
    end(cluster.scheduler)
    for worker in cluster.workers:
        end(worker)
    cluster.start_scheduler()
    cluster.add_worker()
    fleet.go()
    found = document(client, 13)
    is_whole(fleet, recorded, reads, found)
    assert found["packs_verified"] == PACKS - DAMAGED


def test_the_client_of_a_cluster_is_killed(fleet: Fleet, cluster: Cluster) -> None:
    """Tasks that run go on in their workers, and may be read by the next command too."""
    client = cluster.check()
    recorded, reads = at_the_limit(fleet)
    end(client)
    fleet.go()
    is_whole(fleet, recorded, reads, document(cluster.check(), 13))
