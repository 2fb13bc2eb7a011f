from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puller.errors import DomainNotRunning, HypervisorError, JobRunning
from puller.hypervisor.domain.domain import Domain
from puller.hypervisor.job import openjob
from puller.hypervisor.job.backupjob import BackupJob
from puller.hypervisor.job.export import export_uri
from puller.hypervisor.job.job import PullJob, require_short, socket_path
from puller.hypervisor.job.listener import UnixListener
from puller.hypervisor.space.scratch import scratch_path
from puller.units import KIB, MIB
from tests.hypervisor.conftest import BenchFactory, checkpoint, dirty
from tests.lab.fixtures import MachineFactory
from tests.lab.machine import DiskSpec, reference


def test_exports_show_the_moment_of_the_checkpoint(
    machine_factory: MachineFactory, bench: BenchFactory, tmp_path: Path
) -> None:
    machine = machine_factory(DiskSpec("vda", 4 * MIB))
    work = bench(machine)
    machine.write("vda", 1, 0, MIB)
    with work.job(1, {"vda": None}) as job:
        machine.write("vda", 2, 0, 128 * KIB)
        (export,) = job.exports
        frozen = reference(export.uri, tmp_path / "frozen").read_bytes()
        assert job.scratch_used() >= 128 * KIB
    assert frozen == b"\x01" * MIB + bytes(3 * MIB)
    assert work.take(2, {"vda": 1}) == {"vda": [(0, 128 * KIB)]}


@pytest.mark.parametrize(("version", "sent"), [(9_000_000, 0), (11_009_999, 0), (11_010_000, 2)])
def test_only_a_daemon_that_knows_the_flag_is_told_to_keep_a_guest_that_shuts_down(
    version: int, sent: int
) -> None:
    """Independent of the library here: earlier daemons refuse flags that they do not know."""
    flags: list[int] = []
    connection = SimpleNamespace(getLibVersion=lambda: version)
    handle = SimpleNamespace(
        connect=lambda: connection, backupBegin=lambda job, checkpoint, given: flags.append(given)
    )
    domain = cast(Domain, SimpleNamespace(name="web1", uuid="u", handle=handle))
    job = PullJob(domain, {"vda": None}, "puller-1", Path("/scratch"), UnixListener(Path("/socket")))
    BackupJob._begin(job)
    assert flags == [sent]


def test_one_job_mixes_full_and_incremental_and_leaves_other_disks_alone(
    machine_factory: MachineFactory, bench: BenchFactory
) -> None:
    machine = machine_factory(
        DiskSpec("vda", 4 * MIB), DiskSpec("vdb", 4 * MIB), DiskSpec("vdc", 4 * MIB, "raw")
    )
    work = bench(machine)
    work.take(1, {"vda": None})
    machine.write("vda", 1, 1 * MIB, 64 * KIB)
    with work.job(2, {"vdb": None, "vda": 1}) as job:
        exports = {export.target: export for export in job.exports}
        assert exports.keys() == {"vda", "vdb"}
        assert exports["vdb"].changed is None
        assert exports["vda"].changed == "qemu:dirty-bitmap:backup-vda"
        assert dirty(exports["vda"]) == [(1 * MIB, 64 * KIB)]
    assert machine.bitmaps("vda") == {checkpoint(1), checkpoint(2)}
    assert machine.bitmaps("vdb") == {checkpoint(2)}
    assert machine.bitmaps("vdc") == set()


def test_nothing_is_left_after_the_end(machine_factory: MachineFactory, bench: BenchFactory) -> None:
    work = bench(machine_factory(DiskSpec("vda", 4 * MIB), DiskSpec("vdb", 4 * MIB)))
    with work.job(1, {"vda": None, "vdb": None}) as job:
        assert len(work.leftovers()) == 3
        assert openjob.open_job(work.domain) is not None
    assert work.leftovers() == []
    assert openjob.open_job(work.domain) is None
    assert work.checkpoints() == [checkpoint(1)]
    job.end()
    with pytest.raises(HypervisorError, match="ended too early"):
        job.scratch_used()


def test_an_error_in_the_body_ends_the_job_and_leaves_the_checkpoint_to_the_caller(
    machine_factory: MachineFactory, bench: BenchFactory
) -> None:
    work = bench(machine_factory(DiskSpec("vda", 4 * MIB)))
    with pytest.raises(ZeroDivisionError), work.job(1, {"vda": None}):
        raise ZeroDivisionError
    assert work.leftovers() == []
    assert openjob.open_job(work.domain) is None
    assert work.checkpoints() == [checkpoint(1)]


def test_a_domain_that_does_not_run_is_not_touched(
    machine_factory: MachineFactory, bench: BenchFactory, tmp_path: Path
) -> None:
    machine = machine_factory(DiskSpec("vda", 4 * MIB))
    work = bench(machine)
    job = work.job(1, {"vda": None})
    machine.stop()
    with pytest.raises(DomainNotRunning, match=f"domain {machine.name} is not running"), job:
        pass
    assert work.checkpoints() == []
    assert work.leftovers() == []


def test_a_second_job_is_refused_and_the_first_goes_on(
    machine_factory: MachineFactory, bench: BenchFactory
) -> None:
    work = bench(machine_factory(DiskSpec("vda", 4 * MIB)))
    with work.job(1, {"vda": None}) as job:
        expected = f"domain {work.domain.name} already has an open backup job"
        with pytest.raises(JobRunning, match=expected), work.job(2, {"vda": None}):
            pass
        assert work.checkpoints() == [checkpoint(1)]
        assert job.scratch_used() == 0


def test_a_guest_that_powers_off_ends_the_job(machine_factory: MachineFactory, bench: BenchFactory) -> None:
    machine = machine_factory(DiskSpec("vda", 4 * MIB))
    work = bench(machine)
    with work.job(1, {"vda": None}) as job:
        machine.stop()
        with pytest.raises(HypervisorError):
            job.scratch_used()
    assert work.leftovers() == []
    machine.start()
    assert work.leftovers() == []
    assert work.take(2, {"vda": 1}) == {"vda": []}


@pytest.mark.parametrize("obstacle", ["no scratch folder", "scratch exists", "no socket folder", "late"])
def test_a_begin_that_fails_leaves_no_checkpoint_and_no_file(
    machine_factory: MachineFactory, bench: BenchFactory, obstacle: str, tmp_path: Path
) -> None:
    machine = machine_factory(DiskSpec("vda", 4 * MIB), DiskSpec("vdb", 4 * MIB))
    work = bench(machine)
    work.take(1, {"vda": None, "vdb": None})
    name, scratch, socket = checkpoint(2), work.scratch, socket_path(work.domain, checkpoint(2))
    if obstacle == "no scratch folder":
        scratch = tmp_path / "none"
    elif obstacle == "scratch exists":
        scratch_path(scratch, name, machine.uuid, "vdb").touch()
    elif obstacle == "no socket folder":
        socket = tmp_path / "none" / "socket"
    else:
        machine.occupy_exports(tmp_path)
    job = PullJob(work.domain, {"vda": checkpoint(1), "vdb": None}, name, scratch, UnixListener(socket))
    with pytest.raises(HypervisorError, match=f"cannot begin a backup of domain {machine.name}: "), job:
        pass
    assert work.checkpoints() == [checkpoint(1)]
    assert machine.bitmaps("vda") == machine.bitmaps("vdb") == {checkpoint(1)}
    assert openjob.open_job(work.domain) is None
    assert work.leftovers() == []


names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0/"), min_size=1, max_size=20)


@given(names, st.lists(names, min_size=1, max_size=4))
def test_a_uri_gives_back_its_socket_and_export(export: str, parts: list[str]) -> None:
    socket = Path("/", *parts)
    uri = urlsplit(export_uri(socket, export))
    assert (uri.scheme, uri.netloc, unquote(uri.path)) == ("nbd+unix", "", f"/{export}")
    assert parse_qs(uri.query, keep_blank_values=True, strict_parsing=True) == {"socket": [str(socket)]}


def test_a_socket_in_a_folder_with_an_odd_name(
    machine_factory: MachineFactory, bench: BenchFactory, tmp_path: Path
) -> None:
    work = bench(machine_factory(DiskSpec("vda", MIB)))
    folder = tmp_path / "a b&c=d%20é?+"
    folder.mkdir()
    with PullJob(work.domain, {"vda": None}, checkpoint(1), folder, UnixListener(folder / "s")) as job:
        assert reference(job.exports[0].uri, tmp_path / "copy").read_bytes() == bytes(MIB)
    assert list(folder.iterdir()) == []


def test_a_socket_whose_path_is_too_long_is_refused_before_the_job(tmp_path: Path) -> None:
    longest = tmp_path / ("x" * (107 - len(str(tmp_path)) - 1))
    require_short(longest)
    with pytest.raises(HypervisorError, match="the path is too long") as raised:
        require_short(longest.with_name(longest.name + "x"))
    assert raised.value.advice.startswith("Give the domain a shorter name")
