"""Freezing a real guest through its real agent."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from threading import Event
from typing import Any

import pytest

import puller
from puller.errors import HypervisorError, JobRunning, NotQuiesced, ScratchFull
from puller.hypervisor.connection import Host
from puller.hypervisor.domain.domain import Domain
from puller.hypervisor.guest import guestagent, guestexec, quiesce
from puller.hypervisor.guest.agentstate import AgentState, agent_state
from puller.hypervisor.guest.quiescing import GuestCommand
from puller.hypervisor.guest.thawing import ThawingProcess, command_after, thaw_until_answered
from puller.hypervisor.job.openjob import open_job
from puller.hypervisor.locking.lock import lock_directory
from puller.hypervisor.space import scratchwatch
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

    def unsent(domain: Domain, mountpoints: Sequence[str] = ()) -> int:
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

    def refuse(command: str) -> Callable[..., int]:
        def answer(domain: Domain, mountpoints: Sequence[str] = ()) -> int:
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


def in_guest(script: str, timeout: int = 60) -> puller.Command:
    return puller.Command(command=["/bin/sh", "-c", script], timeout=timeout)


def ran(point: puller.Point) -> list[tuple[str, int | None, str]]:
    return [(each.when, each.exit_code, each.output) for each in point.guest_commands]


def test_commands_in_the_guest_run_before_the_freeze_and_after_the_thaw(
    guest: Guest, domain: Domain, libvirt_uri: str, tmp_path: Path
) -> None:
    repository = puller.create_repository(str(tmp_path / "r"), password=None)
    notices: list[str] = []
    point = puller.backup(
        repository,
        NAME,
        connect=libvirt_uri,
        quiesce="on",
        guest_before=in_guest("echo flushed; touch /data/before"),
        guest_after=in_guest("rm /data/before && echo opened >&2"),  # not while /data is frozen
        observer=lambda event: notices.append(getattr(event, "text", "")),
    )
    assert point.consistency == "filesystem"
    assert ran(point) == [("before", 0, "flushed\n"), ("after", 0, "opened\n")]
    assert "/bin/sh in the guest: flushed" in notices
    image = tmp_path / "vda"
    puller.restore(repository, point.point, output=str(image), disks=["vda"], format="raw")
    names = subprocess.run(
        ["/sbin/debugfs", "-R", "ls -p /", str(image)], check=True, capture_output=True, text=True
    ).stdout
    assert "/before/" in names


def test_a_command_that_fails_before_the_freeze_refuses_it_or_is_told(
    domain: Domain, libvirt_uri: str, tmp_path: Path
) -> None:
    repository = puller.create_repository(str(tmp_path / "r"), password=None)
    before = len(domain.handle.listAllCheckpoints())

    def take(quiesce: puller.QuiesceMode) -> puller.Point:
        return puller.backup(
            repository,
            NAME,
            connect=libvirt_uri,
            quiesce=quiesce,
            disks=["vdb"],
            guest_before=in_guest("exit 3"),
            guest_after=in_guest("echo run >> /tmp/after; wc -l < /tmp/after"),
        )

    with pytest.raises(NotQuiesced, match="the command before the freeze failed"):
        take("on")
    assert len(domain.handle.listAllCheckpoints()) == before
    point = take("auto")
    assert point.consistency == "filesystem"
    assert ran(point) == [("before", 3, ""), ("after", 0, "2\n")]


def test_a_command_in_the_guest_that_does_not_end_is_given_up(
    domain: Domain, libvirt_uri: str, tmp_path: Path
) -> None:
    repository = puller.create_repository(str(tmp_path / "r"), password=None)
    point = puller.backup(
        repository, NAME, connect=libvirt_uri, disks=["vdb"], guest_before=in_guest("sleep 60", timeout=1)
    )
    assert ran(point) == [("before", None, "it did not end within 1 s")]
    missing = puller.Command(command=["/no/such/program"])
    point = puller.backup(repository, NAME, connect=libvirt_uri, disks=["vdb"], guest_after=missing)
    ((when, code, output),) = ran(point)
    assert (when, code) == ("after", None)
    assert "No such file" in output


def test_an_alarm_does_not_wait_for_the_command_after_the_thaw(
    domain: Domain, libvirt_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guest would be harmed by an open job whose scratch is full."""
    repository = puller.create_repository(str(tmp_path / "r"), password=None)
    run, begun = guestexec.run, Event()

    def noted(*words: Any) -> Any:
        begun.set()
        return run(*words)

    def free(folder: Path, purpose: str, host: object) -> int:
        return 0 if begun.is_set() else 1 << 40

    monkeypatch.setattr(guestexec, "run", noted)
    monkeypatch.setattr(scratchwatch, "free_bytes", free)
    with pytest.raises(ScratchFull):
        puller.backup(
            repository, NAME, connect=libvirt_uri, disks=["vdb"], guest_after=in_guest("sleep 500", 500)
        )
    assert open_job(domain) is None


def test_only_some_file_systems_are_frozen(domain: Domain, libvirt_uri: str, tmp_path: Path) -> None:
    repository = puller.create_repository(str(tmp_path / "r"), password=None)

    def take(path: str, quiesce: puller.QuiesceMode) -> puller.Point:
        return puller.backup(
            repository,
            NAME,
            connect=libvirt_uri,
            quiesce=quiesce,
            disks=["vdb"],
            quiesce_mountpoints=[path],
            quiesce_timeout=timedelta(seconds=30),
        )

    assert take("/data", "on").consistency == "filesystem"
    with pytest.raises(NotQuiesced, match="found no file system to freeze"):
        take("/nowhere", "on")
    assert take("/nowhere", "auto").consistency == "crash"


def test_the_watchdog_runs_the_command_after_the_thaw(domain: Domain, libvirt_uri: str) -> None:
    script = "echo watchdog > /tmp/watchdog"
    assert thaw_until_answered(libvirt_uri, domain.uuid, GuestCommand(("/bin/sh", "-c", script), 60))
    agent = guestagent.DomainAgent(domain, libvirt_uri)
    shown = guestexec.run(agent, GuestCommand(("/bin/cat", "/tmp/watchdog"), 60), "before")
    assert (shown.exit_code, shown.output) == (0, "watchdog\n")


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


def _when_started(of_process: Path) -> bytes:
    """Return what the file has once the process has it: the kernel fills it shortly after the start."""
    deadline = time.monotonic() + 60
    while not (content := of_process.read_bytes()):
        assert time.monotonic() < deadline
    return content


def test_the_command_after_the_thaw_is_not_for_other_users_to_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may contain a password, and everybody can read a command line."""
    after = GuestCommand(("mysql", "-ps3cret", "-e", "UNLOCK TABLES"), 7.5)
    with ThawingProcess(
        ("puller.hypervisor.guest.thawing", "test:///default", "0" * 32), 60, after
    ) as process:
        place = Path(f"/proc/{process._process.pid}")
        assert b"s3cret" not in _when_started(place / "cmdline")
        said = _when_started(place / "environ").decode().split("\0")
        process.done()
    for name, _, value in (item.partition("=") for item in said if item):
        monkeypatch.setenv(name, value)
    assert command_after() == after


def test_the_second_process_takes_no_module_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = tmp_path / "ran"
    (tmp_path / "libvirt.py").write_text(f"open({str(ran)!r}, 'w').close()")
    monkeypatch.chdir(tmp_path)
    with ThawingProcess(("puller.hypervisor.guest.thawing", "test:///default", "0" * 32), 1) as process:
        process.done()
    assert not ran.exists()
