from __future__ import annotations

import json
import subprocess
import threading
from pathlib import Path

import libvirt
import pytest

from puller.errors import DomainNotRunning, HypervisorError, JobRunning, StagingFull
from puller.hypervisor.job import openjob, pushjob
from puller.hypervisor.job.events import JobEnd, JobEvents
from puller.hypervisor.job.pushjob import PushJob
from puller.hypervisor.space import staging
from puller.units import GIB, KIB, MIB
from tests.hypervisor.conftest import BenchFactory, checkpoint
from tests.lab.fixtures import MachineFactory
from tests.lab.machine import DiskSpec, Machine


def slow_machine(make: MachineFactory) -> Machine:
    """One whose disk takes eight seconds to push, unless that is slowed down further."""
    machine = make(DiskSpec("vda", GIB, "qcow2-falloc"))
    machine.brake("vda")
    return machine


def unheeded(done: int, total: int) -> None:
    """Progress that nobody looks at."""


def allocated(image: Path) -> list[tuple[int, int]]:
    """What the image has itself, as (offset, length), by qemu-img; its backing file is in use."""
    command = ["qemu-img", "map", "-U", "--output=json", str(image)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return [(extent["start"], extent["length"]) for extent in found if extent["depth"] == 0]


def test_an_incremental_holds_what_changed_and_only_that(
    machine_factory: MachineFactory, bench: BenchFactory
) -> None:
    machine = machine_factory(DiskSpec("vda", 8 * MIB), DiskSpec("vdb", MIB))
    machine.write("vda", 1, 0, 4 * MIB)
    work = bench(machine)
    with work.push(1, {"vda": None, "vdb": None}) as job:
        job.wait(unheeded)
    assert work.leftovers() == []
    machine.write("vda", 2, 64 * KIB, 1)
    machine.write_zeroes("vda", 1 * MIB, 64 * KIB)
    machine.unmap_zeroes("vda", 2 * MIB, 64 * KIB)
    machine.discard("vda", 3 * MIB, 64 * KIB)
    with work.push(2, {"vda": 1, "vdb": None}) as job:
        job.wait(unheeded)
        offsets = [offset for offset, _ in allocated(job.images["vda"])]
        assert offsets == [64 * KIB, 1 * MIB, 2 * MIB, 3 * MIB]
        assert openjob.open_job(work.domain) is None
    assert work.leftovers() == []
    assert work.checkpoints() == [checkpoint(1), checkpoint(2)]


def test_the_event_ends_the_waiting(
    machine_factory: MachineFactory, bench: BenchFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = slow_machine(machine_factory)
    work = bench(machine)
    monkeypatch.setattr(PushJob, "_completed", lambda job: None)  # so that only the event can tell
    with work.push(1, {"vda": None}) as job:
        machine.slow_push()
        later = threading.Timer(0.1, machine.handle.abortJob)
        later.start()
        with pytest.raises(HypervisorError, match=r"push job of domain .* failed: Operation canceled"):
            job.wait(unheeded)
        later.join()
    assert work.leftovers() == []


def test_a_missed_event_is_noticed(
    machine_factory: MachineFactory, bench: BenchFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = slow_machine(machine_factory)
    monkeypatch.setattr(JobEvents, "_hear", lambda *_: None)
    monkeypatch.setattr(pushjob, "_LOOK", 0.02)
    seen: list[tuple[int, int]] = []

    def watch(done: int, total: int) -> None:
        seen.append((done, total))
        machine.handle.abortJob()

    with bench(machine).push(1, {"vda": None}) as job:
        machine.slow_push()
        with pytest.raises(HypervisorError, match="failed: Operation canceled"):
            job.wait(watch)
    assert all(0 <= done < total == GIB for done, total in seen)


def test_an_end_that_nobody_can_tell_of_is_a_failure(
    machine_factory: MachineFactory, bench: BenchFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the daemon is restarted meanwhile, or somebody else has asked for the statistics."""
    machine = machine_factory(DiskSpec("vda", MIB))
    monkeypatch.setattr(JobEvents, "_hear", lambda *_: None)
    work = bench(machine)
    with work.push(1, {"vda": None}) as job:
        while openjob.open_job(work.domain) is not None:
            pass
        machine.handle.jobStats(libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED)
        with pytest.raises(HypervisorError, match="does not report how"):
            job.wait(unheeded)
    assert work.leftovers() == []


def test_the_end_of_a_job_before_is_not_taken_for_this_one_s(
    machine_factory: MachineFactory, bench: BenchFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its event may come late."""
    machine = slow_machine(machine_factory)
    enter = JobEvents.__enter__

    def hear_of_another(events: JobEvents) -> JobEvents:
        enter(events)
        events.last = JobEnd(success=True, reason="")
        return events

    monkeypatch.setattr(JobEvents, "__enter__", hear_of_another)
    monkeypatch.setattr(JobEvents, "_hear", lambda *_: None)
    monkeypatch.setattr(PushJob, "_completed", lambda job: None)
    with bench(machine).push(1, {"vda": None}) as job:
        machine.slow_push()
        machine.handle.abortJob()
        with pytest.raises(HypervisorError, match="does not report how"):
            job.wait(unheeded)


def test_leaving_early_ends_the_job(machine_factory: MachineFactory, bench: BenchFactory) -> None:
    machine = slow_machine(machine_factory)
    work = bench(machine)
    with work.push(1, {"vda": None}):
        machine.slow_push()
        with pytest.raises(JobRunning), work.job(2, {"vda": None}):
            pass
    assert openjob.open_job(work.domain) is None
    assert work.leftovers() == []


def test_a_guest_that_powers_off(machine_factory: MachineFactory, bench: BenchFactory) -> None:
    machine = slow_machine(machine_factory)
    work = bench(machine)
    with work.push(1, {"vda": None}) as job:
        machine.slow_push()
        machine.stop()
        with pytest.raises(DomainNotRunning, match="was shut off before QEMU had written all images"):
            job.wait(unheeded)
    assert work.leftovers() == []


def fill(folder: Path) -> None:
    """Leave no room in the file system of ``folder``."""
    with (folder / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(MIB))
        except OSError:
            return


def test_a_full_staging_fails_the_push(
    machine_factory: MachineFactory, bench: BenchFactory, small_file_system: Path
) -> None:
    """On a file system that can reserve nothing."""
    machine = machine_factory(DiskSpec("vda", 64 * MIB, "qcow2-falloc"))
    work = bench(machine)
    work.scratch = small_file_system
    full = f"staging directory {small_file_system} is full"
    with work.push(1, {"vda": None}) as job, pytest.raises(StagingFull, match=full):
        job.wait(unheeded)
    assert work.leftovers() == []


def test_what_cannot_be_reserved_begins_nothing(
    machine_factory: MachineFactory, bench: BenchFactory, small_file_system: Path
) -> None:
    machine = machine_factory(DiskSpec("vda", 64 * MIB, "qcow2-falloc"))
    work = bench(machine)
    work.scratch = small_file_system
    with pytest.raises(StagingFull, match="may need"), work.push(1, {"vda": None}, room=64 * MIB):
        pass
    assert openjob.open_job(work.domain) is None
    assert work.leftovers() == []
    assert work.checkpoints() == []


def test_no_guest_s_write_fails_when_others_fill_the_staging(
    machine_factory: MachineFactory, bench: BenchFactory, small_file_system: Path
) -> None:
    """Before a guest's write, QEMU copies the old block into the staging; if it cannot, the write fails."""
    machine: Machine = machine_factory(DiskSpec("vda", 24 * MIB, "qcow2-falloc"))
    work = bench(machine)
    work.scratch = small_file_system
    with work.push(1, {"vda": None}, room=28 * MIB) as job:
        fill(small_file_system)
        for number in range(24):
            machine.write("vda", 7, number * MIB, MIB)
        job.wait(unheeded)
    (small_file_system / "filler").unlink()
    assert work.leftovers() == []


@pytest.mark.parametrize(
    ("dirty", "cluster", "copied"), [(64 * KIB, 64 * KIB, 64 * KIB), (128 * KIB, 2 * MIB, 4 * MIB)]
)
def test_whole_clusters_are_copied(dirty: int, cluster: int, copied: int) -> None:
    assert staging.copied_bytes(dirty, GIB, cluster) == copied
    assert staging.copied_bytes(dirty, MIB, cluster) == min(copied, MIB)
    assert staging.copied_bytes(dirty, GIB, None) == dirty
