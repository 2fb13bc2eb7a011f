from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from puller.errors import JobRunning
from puller.hypervisor.job import openjob
from puller.hypervisor.job.job import backup_xml
from puller.hypervisor.job.listener import UnixListener
from puller.hypervisor.job.openjob import OpenJob
from puller.units import MIB
from tests.hypervisor.conftest import REPOSITORY, BenchFactory, checkpoint
from tests.lab.fixtures import MachineFactory
from tests.lab.machine import DiskSpec

OURS = f"puller-{REPOSITORY[:12]}-"
OTHER_REPOSITORY = "f" * 32

PULL = """
<domainbackup mode='pull'><server transport='unix' socket='/run/a/{name}.sock'/><disks>
  <disk name='vda' backup='yes' type='file' backupmode='full' exportname='vda' index='3'>
    <driver type='qcow2'/><scratch file='/images/{name}-vda.scratch'/>
  </disk>
  <disk name='vdb' backup='no'/>
</disks></domainbackup>"""

PUSH = """
<domainbackup mode='push'><disks>
  <disk name='vda' backup='yes' type='file' backupmode='full'><target file='/images/out'/></disk>
</disks></domainbackup>"""

TCP = "<domainbackup mode='pull'><server transport='tcp' name='::' port='10809'/></domainbackup>"


def test_a_job_is_known_by_its_files() -> None:
    job = openjob.parse_job(PULL.format(name="x"))
    assert job == OpenJob(Path("/run/a/x.sock"), frozenset({Path("/images/x-vda.scratch")}))
    assert openjob.parse_job(PUSH) == OpenJob(None, frozenset(), frozenset({Path("/images/out")}))
    assert openjob.parse_job(TCP) == OpenJob(None, frozenset())


@pytest.mark.parametrize(
    ("xml", "expected"),
    [
        (PULL.format(name=f"{OURS}20261123T050000Z-00000001"), True),
        (PULL.format(name="puller-ffffffffffff-20261123T050000Z-00000001"), False),
        (PULL.format(name="backup.ABCDE"), False),
        (PUSH, False),
        (TCP, False),
    ],
)
def test_only_a_job_of_this_repository_is_ours(xml: str, expected: bool) -> None:
    assert openjob.is_ours(openjob.parse_job(xml), REPOSITORY) == expected


def test_a_job_of_another_tool_stays_open(machine_factory: MachineFactory, bench: BenchFactory) -> None:
    machine = machine_factory(DiskSpec("vda", 4 * MIB))
    work = bench(machine)
    socket = work.domain.runtime_directory() / "other.sock"
    server = UnixListener(socket).element()
    machine.handle.backupBegin(backup_xml({"vda": None}, {"vda": work.scratch / "other"}, server), None, 0)
    before = openjob.open_job(work.domain)
    with pytest.raises(JobRunning, match=f"domain {machine.name} has an open backup job"):
        openjob.end_stale(work.domain, REPOSITORY)
    with pytest.raises(JobRunning), work.job(1, {"vda": None}):
        pass
    assert openjob.open_job(work.domain) == before
    assert work.checkpoints() == []


def test_a_job_of_another_repository_stays_open(machine_factory: MachineFactory, bench: BenchFactory) -> None:
    work = bench(machine_factory(DiskSpec("vda", 4 * MIB)))
    with work.job(1, {"vda": None}) as job:
        with pytest.raises(JobRunning):
            openjob.end_stale(work.domain, OTHER_REPOSITORY)
        assert job.scratch_used() == 0


def test_ending_what_ended_meanwhile_leaves_the_next_job_alone(
    machine_factory: MachineFactory, bench: BenchFactory
) -> None:
    work = bench(machine_factory(DiskSpec("vda", 4 * MIB)))
    with work.job(1, {"vda": None}) as first:
        pass
    with work.job(2, {"vda": None}) as second:
        first.end()
        assert second.scratch_used() == 0


def test_no_job_is_nothing_to_end(machine_factory: MachineFactory, bench: BenchFactory) -> None:
    work = bench(machine_factory(DiskSpec("vda", 4 * MIB)))
    assert not openjob.end_stale(work.domain, REPOSITORY)
    assert openjob.open_job(work.domain) is None


@pytest.mark.parametrize("mode", ["pull", "push"])
def test_a_killed_run_is_recognised_and_ended_by_the_next(mode: str) -> None:
    root = Path(tempfile.mkdtemp(prefix="puller-"))
    command = [sys.executable, "-m", "tests.hypervisor.killed_run"]
    try:
        killed = subprocess.run([*command, mode, str(root)], check=False)
        found = subprocess.run([*command, "recover", str(root)], check=False, capture_output=True, text=True)
        assert killed.returncode == -signal.SIGKILL
        assert json.loads(found.stdout) == {
            "ours": True,
            "files before": True,
            "ended": True,
            "job after": None,
            "files after": False,
            "checkpoints": [checkpoint(1)],
        }
    finally:
        shutil.rmtree(root)


def test_sweeping_takes_our_leftovers_of_this_domain_only(
    machine_factory: MachineFactory, bench: BenchFactory
) -> None:
    work = bench(machine_factory(DiskSpec("vda", 4 * MIB)))
    stale = work.scratch / f"{OURS}20261122T050000Z-00000009-{work.domain.uuid}-vda.scratch"
    others = {
        work.scratch / f"{OURS}20261122T050000Z-00000009-00000000-1111-2222-3333-444444444444-vda.scratch",
        work.scratch / f"puller-ffffffffffff-20261122T050000Z-00000009-{work.domain.uuid}-vda.scratch",
        work.scratch / f"{work.domain.uuid}.qcow2",
    }
    for path in (stale, *others):
        path.touch()
    with work.job(1, {"vda": None}) as job:
        in_use = openjob.open_job(work.domain)
        assert in_use is not None
        assert openjob.sweep_scratch(work.domain, work.scratch, REPOSITORY) == (stale,)
        assert set(work.scratch.iterdir()) == others | in_use.scratch
        assert job.scratch_used() == 0
    assert set(work.scratch.iterdir()) == others
