"""Freezing a real guest through its real agent."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

import puller
from puller.errors import HypervisorError, JobRunning, NotQuiesced
from puller.hypervisor.connection import Host
from puller.hypervisor.domain.domain import Domain
from puller.hypervisor.guest import guestagent, quiesce
from puller.hypervisor.guest.agentstate import AgentState, agent_state
from puller.hypervisor.guest.thawing import ThawingProcess, thaw_until_answered
from puller.hypervisor.job.openjob import open_job
from puller.hypervisor.locking.lock import lock_directory
from tests.lab.guest import Agent, Guest, running_guest
from tests.lab.machine import EmbeddedLibvirt

PATIENCE = 120.0
NAME = "quiet"


@pytest.fixture(scope="module")
def guest(libvirt_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    """A guest that writes, with an agent that answers."""
    with running_guest(libvirt_uri, NAME, tmp_path_factory.mktemp("quiet"), Agent.SOUND) as guest:
        guest.console.wait_ready(PATIENCE)
        guest.console.wait_generation(1, PATIENCE)
        yield guest


@pytest.fixture
def domain(guest: Guest, embedded_libvirt: EmbeddedLibvirt) -> Domain:
    return Host.connect(embedded_libvirt.uri).domain(NAME)


def test_a_quiesced_point_is_like_an_unmounted_disk(guest: Guest, libvirt_uri: str, tmp_path: Path) -> None:
    repository = puller.create_repository(str(tmp_path / "r"), password=None)
    cases: list[tuple[puller.QuiesceMode, str, bool]] = [("on", "filesystem", False), ("off", "crash", True)]
    for choice, consistency, recovery in cases:
        point = puller.backup(repository, NAME, connect=libvirt_uri, quiesce=choice, disks=["vda"])
        assert point.consistency == consistency
        assert (point.freeze_seconds is not None) == (choice == "on")
        image = tmp_path / choice
        puller.restore(repository, point.point, output=str(image), disks=["vda"], format="raw")
        assert ("needs_recovery" in features(image)) is recovery
    generation = guest.console.generation()
    guest.console.wait_generation(generation + 1, PATIENCE)  # it writes on


def features(image: Path) -> str:
    """What the superblock of an ext4 says of itself."""
    command = ["/sbin/dumpe2fs", "-h", str(image)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_what_a_dead_run_left_frozen_is_thawed_by_the_next(
    guest: Guest, domain: Domain, libvirt_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = puller.create_repository(str(tmp_path / "r"), password=None)
    with monkeypatch.context() as patch:
        patch.setattr(guestagent, "thaw", lambda domain: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            puller.backup(repository, NAME, connect=libvirt_uri, disks=["vdb"])
    assert open_job(domain) is None
    notices: list[str] = []
    point = puller.backup(
        repository, NAME, connect=libvirt_uri, observer=lambda event: notices.append(str(event))
    )
    assert any("thawed file systems that an earlier run had left frozen" in text for text in notices)
    assert point.consistency == "filesystem"
    guest.console.wait_generation(guest.console.generation() + 1, PATIENCE)


def test_what_another_program_has_frozen_stays_frozen(
    domain: Domain, libvirt_uri: str, tmp_path: Path
) -> None:
    """Its snapshot may be under way just now."""
    repository = puller.create_repository(str(tmp_path / "r"), password=None)
    domain.handle.fsFreeze()
    try:
        point = puller.backup(repository, NAME, connect=libvirt_uri, disks=["vdb"])
        with pytest.raises(NotQuiesced, match="guest-fsfreeze-freeze has been disabled"):
            puller.backup(repository, NAME, connect=libvirt_uri, quiesce="on", disks=["vdb"])
    finally:
        assert domain.handle.fsThaw() > 0
    assert point.consistency == "crash"
    assert not (lock_directory() / f"{domain.uuid}.frozen").exists()
    assert puller.backup(repository, NAME, connect=libvirt_uri, disks=["vdb"]).consistency == "filesystem"


@pytest.mark.parametrize("choice", ["auto", "on"])
def test_what_another_program_freezes_meanwhile_stays_frozen(
    domain: Domain,
    libvirt_uri: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    choice: puller.QuiesceMode,
) -> None:
    """A freeze that takes its time keeps ours waiting for 30 s: libvirt gives it up and has not sent it."""
    repository = puller.create_repository(str(tmp_path / "r"), password=None)

    def unsent(domain: Domain) -> int:
        domain.handle.fsFreeze()  # the other program's, which ends just now
        raise JobRunning("Timed out during operation: cannot acquire state change lock")

    refused = pytest.raises(NotQuiesced, match="state change lock") if choice == "on" else nullcontext()
    with monkeypatch.context() as patch, refused:
        patch.setattr(guestagent, "freeze", unsent)
        puller.backup(repository, NAME, connect=libvirt_uri, quiesce=choice, disks=["vdb"])
    assert domain.handle.fsThaw() > 0
    assert not (lock_directory() / f"{domain.uuid}.frozen").exists()


def test_what_an_earlier_run_may_have_frozen_is_thawed(
    domain: Domain, libvirt_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent did not answer when the run began; the refusal of the freeze may be due to the old one."""
    repository = puller.create_repository(str(tmp_path / "r"), password=None)
    (lock_directory() / f"{domain.uuid}.frozen").touch()
    domain.handle.fsFreeze()
    monkeypatch.setattr(quiesce, "thaw_left_over", lambda domain: False)
    puller.backup(repository, NAME, connect=libvirt_uri, disks=["vdb"])
    assert domain.handle.fsThaw() == 0


@pytest.mark.parametrize("words", ["has been disabled: by its configuration", "has not been found"])
def test_an_agent_that_knows_no_freeze_is_not_asked_on(
    domain: Domain, libvirt_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    """Its answer is one, so nothing is or will be frozen."""
    repository = puller.create_repository(str(tmp_path / "r"), password=None)

    def refuse(command: str) -> Callable[[Domain], int]:
        def answer(domain: Domain) -> int:
            raise HypervisorError(f"unable to execute QEMU agent command '{command}': {command} {words}")

        return answer

    mark = lock_directory() / f"{domain.uuid}.frozen"
    notices: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(guestagent, "freeze", refuse("guest-fsfreeze-freeze"))
        patch.setattr(guestagent, "thaw", refuse("guest-fsfreeze-thaw"))
        puller.backup(
            repository,
            NAME,
            connect=libvirt_uri,
            disks=["vdb"],
            observer=lambda event: notices.append(str(event)),
        )
        assert not mark.exists()
        assert "repeats the thaw" not in str(notices)
        assert thaw_until_answered(libvirt_uri, domain.uuid)
        mark.touch()  # of a run that died
        puller.backup(repository, NAME, connect=libvirt_uri, disks=["vdb"])
        assert not mark.exists()


def test_a_paused_guest_is_not_asked(guest: Guest, domain: Domain, libvirt_uri: str, tmp_path: Path) -> None:
    repository = puller.create_repository(str(tmp_path / "r"), password=None)
    before = len(domain.handle.listAllCheckpoints())
    domain.handle.suspend()
    try:
        with pytest.raises(NotQuiesced, match="paused"):
            puller.backup(repository, NAME, connect=libvirt_uri, quiesce="on", disks=["vdb"])
        assert len(domain.handle.listAllCheckpoints()) == before
        point = puller.backup(repository, NAME, connect=libvirt_uri, disks=["vdb"])
    finally:
        domain.handle.resume()
    assert point.consistency == "crash"


def test_doctor_sees_that_the_agent_answers(domain: Domain) -> None:
    assert agent_state(domain) is AgentState.ANSWERS


def test_the_second_process_takes_no_module_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = tmp_path / "ran"
    (tmp_path / "libvirt.py").write_text(f"open({str(ran)!r}, 'w').close()")
    monkeypatch.chdir(tmp_path)
    with ThawingProcess(("puller.hypervisor.guest.thawing", "test:///default", "0" * 32), 1) as process:
        process.done()
    assert not ran.exists()
