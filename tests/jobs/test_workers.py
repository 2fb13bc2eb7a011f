"""Domains that are backed up by processes of their own: results as of threads, signals, kills, secrets."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import puller
from puller.errors import Locked, ScratchFull, WorkerLost
from puller.hypervisor.locking.lock import DomainLock, lock_directory
from puller.jobs.ways import can_leave, is_faster_in_processes
from puller.jobs.worker import portable
from tests.cli.test_metrics import figures
from tests.jobs.night import JOB, NAMES, PASSWORD, Night, Place, until
from tests.lab.daemon import is_root

real = pytest.mark.skipif(not is_root(), reason="a private libvirtd needs root")
SLOW = "256K"
"""A pace at which a backup takes 16 s: time to do something meanwhile."""


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    folder = Path(tempfile.mkdtemp(prefix="pw-"))
    place = Place(folder)
    try:
        yield place
    finally:
        place.close()
        shutil.rmtree(folder)


@pytest.fixture
def night(place: Place, tmp_path: Path) -> Night:
    place.ask("clear")
    return Night(place, tmp_path)


@real
@pytest.mark.parametrize("processes", [True, False])
def test_all_domains_are_backed_up(night: Night, place: Place, tmp_path: Path, processes: bool) -> None:
    """Byte for byte, with one document, one metrics file and the events of all."""
    code, document, err = night.run("--progress", "json", processes=processes)
    assert code == 0, err
    assert sorted(point["domain"] for point in document["points"]) == list(NAMES)
    told = [json.loads(line) for line in err.splitlines()]
    events = {(each["event"], each.get("domain")) for each in told}
    assert {("step", name) for name in NAMES} < events, events
    assert night.left() == []
    for point in night.points():
        puller.restore(night.opened(), point.point, output=str(tmp_path / point.domain), format="raw")
        found = (tmp_path / point.domain / "vda.raw").read_bytes()
        assert found == (place.folder / f"{point.domain}.raw").read_bytes()
    measured = figures(tmp_path / "metrics.prom")
    for name in NAMES:
        assert measured["backup_success", JOB, name] == 1
        assert measured["backup_read_bytes", JOB, name] > 0
    code, document, _ = night.run(processes=processes)
    assert code == 0
    assert {point["kind"] for point in document["points"]} == {"incremental"}


@real
def test_one_that_fails_fails_alone_with_its_own_error(night: Night) -> None:
    """The error, its advice and the exit code are those of threads."""
    found = []
    uuid = night.place.ask("uuid")
    for processes in (True, False):
        with DomainLock(uuid, "many1", lock_directory()):
            code, document, err = night.run("--debug", processes=processes)
        assert sorted(point["domain"] for point in document["points"]) == ["many0", "many2"]
        assert "Traceback" in err
        (failed,) = document["failed"]
        assert (code, failed["domain"], failed["error"]["name"]) == (3, "many1", "Locked")
        found.append(failed)
    assert found[0] == found[1]
    assert night.left() == []


@real
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_all_workers_and_they_clean_up(night: Night, number: signal.Signals) -> None:
    night.configure(pace=SLOW)
    running = night.begin()
    until(lambda: len(night.jobs()) == len(NAMES))
    running.send_signal(number)
    code, document, _ = night.end(running)
    assert (code, document["error"]["name"]) == (130, "Interrupted")
    assert document["error"]["message"].startswith(f"stopped by {number.name}")
    assert {failed["error"]["name"] for failed in document["failed"]} == {"Interrupted"}
    assert len(document["failed"]) == len(NAMES)
    assert night.left() == []
    assert night.points() == []


@real
def test_a_signal_to_a_worker_alone_stops_its_domain_alone(night: Night) -> None:
    night.configure(pace=SLOW)
    running = night.begin()
    until(lambda: len(night.jobs()) == len(NAMES))
    os.kill(min(night.workers(running.pid)), signal.SIGTERM)
    code, document, _ = night.end(running)
    assert [failed["error"]["name"] for failed in document["failed"]] == ["Interrupted"]
    assert (code, len(document["points"])) == (130, 2)
    assert night.left() == []


@real
def test_a_worker_that_is_killed_fails_its_domain_and_the_next_run_cleans_up(night: Night) -> None:
    night.configure(pace=SLOW)
    running = night.begin()
    until(lambda: len(night.jobs()) == len(NAMES))
    os.kill(min(night.workers(running.pid)), signal.SIGKILL)
    code, document, _ = night.end(running)
    (failed,) = document["failed"]
    name = failed["domain"]
    assert (code, len(document["points"]), failed["error"]["name"]) == (3, 2, "WorkerLost")
    assert failed["error"]["message"] == f"the process that backed up domain {name} was ended by SIGKILL"
    assert night.jobs() == [name]
    night.configure()
    code, document, err = night.run()
    assert code == 0, err
    assert night.left() == []
    assert sorted(point["domain"] for point in document["points"]) == list(NAMES)
    assert "ended a backup job that an earlier run had left open" in err


@real
def test_workers_clean_up_if_the_process_of_the_job_is_killed(night: Night) -> None:
    night.configure(pace=SLOW)
    running = night.begin()
    until(lambda: len(night.jobs()) == len(NAMES))
    running.kill()
    running.communicate()
    until(lambda: not night.workers())
    assert night.left() == []


@real
def test_no_secret_is_where_others_could_read_it(night: Night) -> None:
    """Neither in the command line nor in the environment of a worker."""
    night.configure(pace=SLOW)
    running = night.begin()
    until(lambda: len(night.workers(running.pid)) == len(NAMES))
    repository = night.opened()
    secrets = [PASSWORD.encode(), repository.keys.id_key.hex().encode(), repository.keys.id_key]
    for number in night.workers(running.pid):
        for name in ("cmdline", "environ"):
            content = Path(f"/proc/{number}/{name}").read_bytes()
            assert not [secret for secret in secrets if secret in content]
    running.send_signal(signal.SIGTERM)
    night.end(running)


@pytest.mark.parametrize(
    ("cores", "together", "expected"),
    [(1, 4, False), (2, 2, False), (4, 4, False), (5, 1, False), (8, 2, True), (64, 64, True)],
)
def test_processes_are_for_hosts_that_one_process_cannot_keep_busy(
    cores: int, together: int, expected: bool
) -> None:
    assert is_faster_in_processes(cores, together) is expected


@pytest.mark.parametrize(
    ("connect", "expected"),
    [
        ("qemu:///system", True),
        ("qemu+ssh://kvm1/system", True),
        ("qmp:///run/vm.sock", True),
        ("qemu:///embed?root=/r", False),
        ("test:///default", False),
    ],
)
def test_a_driver_without_a_daemon_stays_in_its_process(tmp_path: Path, connect: str, expected: bool) -> None:
    repository = puller.create_repository(str(tmp_path / "repository"), password=None)
    assert can_leave(repository, connect) is expected


def test_an_error_travels_as_what_it_is() -> None:
    error = portable(ScratchFull("no room", advice="Make room."))
    assert type(error) is ScratchFull
    restored = pickle.loads(pickle.dumps(error))
    assert (restored.message, restored.advice) == ("no room", "Make room.")


def test_an_error_that_cannot_travel_keeps_its_class_or_its_text() -> None:
    class Odd(Exception):
        """Known to this function alone, so it cannot be pickled."""

    lock: Locked = Locked("held", advice="Wait.")
    lock.__dict__["held"] = open  # travels
    assert type(portable(lock)) is Locked
    lock.__dict__["held"] = (each for each in "x")  # does not
    found = portable(lock)
    assert isinstance(found, Locked)
    assert (found.message, found.advice) == ("held", "Wait.")
    assert str(portable(Odd("why"))) == "Odd: why"


def test_a_lost_worker_can_be_tried_again() -> None:
    assert (WorkerLost.exit_code, WorkerLost.retryable) == (1, True)
