"""Freezing the guest of a QEMU without libvirt through the socket of its agent."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import puller
from puller.errors import HypervisorError, NotQuiesced
from puller.hypervisor.locking.lock import lock_directory
from puller.qmp.agent import Conversation
from puller.units import MIB
from tests.hypervisor.test_quiesce import features
from tests.lab.machine import DiskSpec
from tests.lab.qemu import BareGuest, BareMachine
from tests.qmp.conftest import BareFactory

PATIENCE = 120.0


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BareGuest]:
    """A guest that writes, with the real agent."""
    with BareGuest("quiet", tmp_path_factory.mktemp("guest")) as guest:
        guest.console.wait_ready(PATIENCE)
        guest.console.wait_generation(1, PATIENCE)
        yield guest


def test_a_quiesced_point_is_like_an_unmounted_disk(guest: BareGuest, tmp_path: Path) -> None:
    repository = puller.create_repository(str(tmp_path / "r"), password=None)
    cases: list[tuple[puller.QuiesceMode, str, bool]] = [("on", "filesystem", False), ("off", "crash", True)]
    for choice, consistency, recovery in cases:
        point = puller.backup(repository, guest.name, connect=guest.uri, quiesce=choice, disks=["vda"])
        assert point.consistency == consistency
        assert (point.freeze_seconds is not None) == (choice == "on")
        image = tmp_path / choice
        puller.restore(repository, point.point, output=str(image), disks=["vda"], format="raw")
        assert ("needs_recovery" in features(image)) is recovery
    generation = guest.console.generation()
    guest.console.wait_generation(generation + 1, PATIENCE)  # it writes on


def test_what_another_program_has_frozen_stays_frozen(guest: BareGuest, tmp_path: Path) -> None:
    repository = puller.create_repository(str(tmp_path / "r"), password=None)

    def ask(command: str) -> object:
        with Conversation(guest.agent, "cannot ask") as agent:
            return agent.ask(command, 10)

    ask("guest-fsfreeze-freeze")
    try:
        point = puller.backup(repository, guest.name, connect=guest.uri, disks=["vdb"])
        with pytest.raises(NotQuiesced, match="guest-fsfreeze-freeze has been disabled"):
            puller.backup(repository, guest.name, connect=guest.uri, quiesce="on", disks=["vdb"])
        assert ask("guest-fsfreeze-status") == "frozen"
    finally:
        ask("guest-fsfreeze-thaw")
    assert point.consistency == "crash"
    assert not (lock_directory() / f"{guest.uuid}.frozen").exists()


def test_a_run_that_is_killed_while_the_guest_is_frozen(guest: BareGuest, tmp_path: Path) -> None:
    """The second process thaws at once; the next run finds nothing frozen, and takes a sound point."""
    url = str(tmp_path / "r")
    repository = puller.create_repository(url, password=None)
    command = [sys.executable, "-m", "tests.qmp.killed_run", guest.uri, guest.name, url, "transaction"]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    generation = guest.console.generation()
    guest.console.wait_generation(generation + 2, PATIENCE)
    assert puller.backup(repository, guest.name, connect=guest.uri).consistency == "filesystem"
    assert guest.remains() == []


class StandIn:
    """An agent that answers as ``answer`` says; ``asked`` are the commands that came."""

    def __init__(self, path: Path, answer: Callable[[str], dict[str, object] | None]) -> None:
        self.asked: list[str] = []
        self._answer = answer
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            client, _ = self._server.accept()
            with client, client.makefile("rb") as lines:
                client.sendall(b'{"return": "late, for a client that has gone"}\n')
                for line in lines:
                    self._hear(client, json.loads(line.lstrip(b"\xff")))

    def _hear(self, client: socket.socket, message: dict[str, object]) -> None:
        command = str(message["execute"])
        if command == "guest-sync-delimited":
            arguments = message["arguments"]
            assert isinstance(arguments, dict)
            client.sendall(b"\xff" + json.dumps({"return": arguments["id"]}).encode() + b"\n")
            return
        self.asked.append(command)
        answer = self._answer(command)
        if answer is not None:
            client.sendall(json.dumps(answer).encode() + b"\n")


@pytest.fixture
def machine(bare_factory: BareFactory) -> BareMachine:
    machine = bare_factory(DiskSpec("vda", MIB))
    machine.monitor("cont")
    return machine


def test_the_disks_are_frozen_between_freeze_and_thaw(
    machine: BareMachine, repository: puller.Repository, tmp_path: Path
) -> None:
    seen: dict[str, set[str]] = {}

    def answer(command: str) -> dict[str, object]:
        seen[command] = machine.bitmaps()["vda"]
        return {"return": 2}

    agent = StandIn(tmp_path / "qga", answer)
    point = puller.backup(
        repository, machine.name, connect=f"{machine.uri}?agent={tmp_path}/qga", quiesce="on"
    )
    assert agent.asked == ["guest-fsfreeze-freeze", "guest-fsfreeze-thaw"]
    assert seen == {"guest-fsfreeze-freeze": set(), "guest-fsfreeze-thaw": {point.checkpoint}}
    assert point.consistency == "filesystem"


def test_an_agent_that_cannot_be_reached(
    machine: BareMachine, repository: puller.Repository, tmp_path: Path
) -> None:
    uri = f"{machine.uri}?agent={tmp_path}/qga"
    with pytest.raises(NotQuiesced, match="is not connected"):
        puller.backup(repository, machine.name, connect=uri, quiesce="on")
    assert puller.backup(repository, machine.name, connect=uri).consistency == "crash"


def test_commands_that_cannot_run_in_the_guest_are_not_left_out_in_silence(
    machine: BareMachine, repository: puller.Repository
) -> None:
    notices: list[str] = []
    command = puller.Command(command=["true"])
    puller.backup(
        repository,
        machine.name,
        connect=machine.uri,
        guest_after=command,
        observer=lambda event: notices.append(str(event)),
    )
    why = f"domain {machine.name} has no channel for a guest agent"
    assert any(f"the commands in the guest do not run: {why}" in text for text in notices)


def test_an_agent_that_does_not_answer_a_freeze_is_thawed_later(
    machine: BareMachine, repository: puller.Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("puller.hypervisor.guest.quiesce.FREEZE_SECONDS", 1)
    frozen = threading.Event()

    def answer(command: str) -> dict[str, object] | None:
        if command == "guest-fsfreeze-freeze" or not frozen.is_set():
            return None
        return {"return": 1}

    agent = StandIn(tmp_path / "qga", answer)
    notices: list[str] = []
    uri = f"{machine.uri}?agent={tmp_path}/qga"
    point = puller.backup(
        repository, machine.name, connect=uri, observer=lambda event: notices.append(str(event))
    )
    assert point.consistency == "crash"
    assert any("puller repeats the thaw until the agent answers" in text for text in notices)
    frozen.set()
    before = agent.asked.count("guest-fsfreeze-thaw")
    deadline = time.monotonic() + PATIENCE
    while agent.asked.count("guest-fsfreeze-thaw") == before:
        assert time.monotonic() < deadline
        threading.Event().wait(0.1)


def test_a_closed_channel_is_told(tmp_path: Path) -> None:
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "qga"))
    server.listen()

    def hang_up() -> None:
        server.accept()[0].close()

    threading.Thread(target=hang_up, daemon=True).start()
    with pytest.raises(HypervisorError, match="cannot freeze: .*(closed|reset|pipe)"):  # noqa: RUF043
        Conversation(tmp_path / "qga", "cannot freeze").__enter__()
