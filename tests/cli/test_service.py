"""As a service: the notify socket, the journal, the credential, on a real backup of a real machine."""

from __future__ import annotations

import os
import queue
import signal
import socket
import struct
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import puller
from puller.cli.output.streams import journal, notify
from puller.cli.output.streams.console import Line
from puller.cli.output.streams.notify import Service
from puller.errors import PullerError
from puller.events import DiskPlanned, DiskProgress, Event, Step
from puller.units import MIB
from tests.cli.conftest import CommandLine, process
from tests.lab.fixtures import MachineFactory
from tests.lab.machine import DiskSpec, Machine
from tests.lab.seaweed import Seaweed

_END = b"the end of the test"


class Listener:
    """A datagram socket that reads all the time, as systemd's and the journal's do."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._heard: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._address = address
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while (message := self._socket.recv(1 << 20)) != _END:
            self._heard.put(message)

    def next(self) -> bytes:
        return self._heard.get(timeout=60)

    def close(self) -> None:
        """Read what has come so far, and no more."""
        if self._reader.is_alive():
            self._send_end()
            self._reader.join()
            self._socket.close()

    def all(self) -> list[bytes]:
        """What has come until now; nothing is heard afterwards."""
        self.close()
        return [self._heard.get() for _ in range(self._heard.qsize())]

    def _send_end(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as messenger:
            messenger.sendto(_END, self._address)


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    made = Listener(str(tmp_path / "socket"))
    yield made
    made.close()


@pytest.fixture
def manager(listener: Listener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Listener:
    """A service manager that started this process."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "socket"))
    monkeypatch.setenv("WATCHDOG_USEC", "60000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    return listener


@pytest.fixture
def machine(
    machine_factory: MachineFactory, libvirt_uri: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Machine]:
    monkeypatch.setenv("LIBVIRT_DEFAULT_URI", libvirt_uri)
    made = machine_factory(DiskSpec("vda", 4 * MIB))
    made.write("vda", 7, 0, MIB)
    yield made


def job(path: Path, machine: Machine, url: Path) -> Path:
    lines = ("[jobs.nightly]", f'repository = "{url}"', f'domains = ["{machine.name}"]', 'then = ["check"]')
    path.write_text("\n".join(lines))
    return path


def test_a_night_as_a_service(
    cli: CommandLine,
    machine: Machine,
    manager: Listener,
    tmp_path: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The password is systemd's credential; systemd hears how it goes."""
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "puller-password").write_text("correct horse\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    sealed = puller.create_repository(str(folder), password="correct horse")
    answer = cli("run", "nightly", "--config", str(job(tmp_path / "c.toml", machine, folder)), "--json")
    heard = [message.decode() for message in manager.all()]
    assert answer.code == 0
    assert [point.point for point in puller.list_points(sealed)] == [answer.document["points"][0]["point"]]
    assert heard[0] == "READY=1"
    assert "WATCHDOG=1" in heard
    assert heard[-1] == "STOPPING=1"
    states = [message.removeprefix("STATUS=") for message in heard if message.startswith("STATUS=")]
    assert f"{machine.name}: read" in states
    (committing,) = [state for state in states if ": commit" in state]
    assert committing.startswith(f"{machine.name}: commit; 1.0 MiB of 1.0 MiB, ")


def test_the_keys_of_s3_are_a_credential_too(
    cli: CommandLine,
    machine: Machine,
    seaweed: Seaweed,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As the units have it: a file of the AWS kind among the credentials, the endpoint in the environment."""
    seaweed.use(monkeypatch)
    seaweed.make_bucket("nightly")
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "puller-password").write_text("correct horse\n")
    names = ("aws_access_key_id", "aws_secret_access_key")
    lines = [f"{name} = {os.environ[name.upper()]}" for name in names]
    (credentials / "puller-aws-credentials").write_text("\n".join(["[default]", *lines]))
    for name in names:
        monkeypatch.delenv(name.upper())
    words = ("run", "nightly", "--config", str(tmp_path / "c.toml"), "--json")
    (tmp_path / "c.toml").write_text(
        f'[jobs.nightly]\nrepository = "s3://nightly/kvm"\ndomains = ["{machine.name}"]\n'
    )
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "nothing"))
    assert cli(*words).error["code"] == 14
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials / "puller-aws-credentials"))
    assert cli("init", "-r", "s3://nightly/kvm").code == 0
    assert len(cli(*words).document["points"]) == 1


def test_what_cannot_begin_is_never_ready(cli: CommandLine, manager: Listener) -> None:
    assert cli("points", "--config", "/nonexistent").code == 2
    assert manager.all() == [b"STOPPING=1"]


def test_a_signal_is_told_before_the_cleaning_up(
    machine: Machine,
    cli: CommandLine,
    manager: Listener,
    repository: puller.Repository,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from puller import api

    def asked_to_stop(*unused: object, **choices: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            threading.Event().wait(60)
        finally:
            cleaning.extend(manager.all())

    cleaning: list[bytes] = []
    monkeypatch.setattr(api, "backup", asked_to_stop)
    assert cli("backup", machine.name, "-r", str(folder)).code == 130
    assert cleaning[-1] == b"STOPPING=1"


def test_an_abstract_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"puller-test-{os.getpid()}"
    manager = Listener(f"\0{name}")
    with Service.of({"NOTIFY_SOCKET": f"@{name}"}) as service:
        service.ready()
    assert manager.all() == [b"READY=1"]
    manager.close()


def test_the_watchdog_is_not_told_that_all_is_well_when_a_disk_is_stuck(
    listener: Listener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {"NOTIFY_SOCKET": str(tmp_path / "socket"), "WATCHDOG_USEC": "2000"}
    with Service.of(environment) as service:
        service(Step("web1", "read"))
        assert listener.next() == b"STATUS=web1: read"
        service.ready()
        assert listener.next() == b"READY=1"
        assert listener.next() == b"WATCHDOG=1"
        monkeypatch.setattr(notify, "STALL", 0.0)
        (beating,) = (thread for thread in threading.enumerate() if thread.name == "watchdog")
        beating.join(60)
        assert not beating.is_alive()


def test_a_domain_that_has_ended_cannot_be_stuck(
    cli: CommandLine,
    machine: Machine,
    manager: Listener,
    folder: Path,
    repository: puller.Repository,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It failed while its disks were read; then the watchdog bit during the job's last command."""
    services: list[Service] = []
    real = Service.of

    def of(environment: Mapping[str, str]) -> Service:
        services.append(real(environment))
        return services[-1]

    monkeypatch.setattr(Service, "of", of)
    _fail_at("read", monkeypatch)
    assert cli("backup", machine.name, "-r", str(folder)).code == 1
    monkeypatch.setattr(notify, "STALL", 0.0)
    assert any(b": read" in message for message in manager.all())
    assert services[0].is_well()


def _fail_at(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail when a step is told of, once the service manager was told."""
    real = Service.__call__

    def told(self: Service, event: Event) -> None:
        real(self, event)
        if isinstance(event, Step) and event.name == step:
            raise PullerError("failed")

    monkeypatch.setattr(Service, "__call__", told)


def test_a_watchdog_for_another_process_is_none() -> None:
    service = Service.of({"NOTIFY_SOCKET": "/nonexistent", "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"})
    before = threading.active_count()
    service.ready()  # and a manager that does not listen is no error
    assert threading.active_count() == before


def test_the_status_adds_the_disks_up(listener: Listener, tmp_path: Path) -> None:
    with Service(str(tmp_path / "socket")) as service:
        for disk in ("vda", "vdb"):
            service(DiskPlanned("web1", disk, 8 * MIB, 4 * MIB))
            service(DiskProgress("web1", disk, 2 * MIB, 2 * MIB, MIB))
        service(Step("web1", "store"))
    assert listener.all()[-1] == b"STATUS=web1: store; 4.0 MiB of 8.0 MiB, 2.0 MiB stored"


def fields(entry: bytes) -> dict[str, str]:
    """Read the journal's protocol, as the journal does."""
    found = {}
    while entry:
        name, _, rest = entry.partition(b"\n")
        if b"=" in name:
            key, _, value = name.partition(b"=")
            found[key.decode()] = value.decode()
            entry = rest
        else:
            (size,) = struct.unpack_from("<Q", rest)
            found[name.decode()] = rest[8 : 8 + size].decode()
            assert rest[8 + size : 9 + size] == b"\n"
            entry = rest[9 + size :]
    return found


@pytest.fixture
def in_the_journal(listener: Listener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Listener:
    """stderr leads to a journal, which listens here."""
    monkeypatch.setattr(journal, "SOCKET", str(tmp_path / "socket"))
    status = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
    return listener


def test_the_journal_gets_fields(
    cli: CommandLine,
    machine: Machine,
    in_the_journal: Listener,
    tmp_path: Path,
    folder: Path,
    repository: puller.Repository,
) -> None:
    answer = cli("run", "nightly", "--config", str(job(tmp_path / "c.toml", machine, folder)), "--json")
    entries = [fields(entry) for entry in in_the_journal.all()]
    assert answer.err == ""
    assert {entry["SYSLOG_IDENTIFIER"] for entry in entries} == {"puller"}
    assert {entry["PULLER_JOB"] for entry in entries} == {"nightly"}
    by_event = {entry["PULLER_EVENT"]: entry for entry in entries}
    done = [
        (entry["PULLER_DOMAIN"], entry["PULLER_DISK"]) for entry in entries if entry["PULLER_EVENT"] == "done"
    ]
    assert done == [(machine.name, "vda"), ("repository", "packs")]
    point = answer.document["points"][0]
    assert by_event["point"]["PULLER_POINT"] == point["point"]
    assert by_event["point"]["PULLER_UUID"] == machine.uuid
    assert by_event["point"]["PULLER_READ_BYTES"] == str(MIB)
    assert by_event["check"]["MESSAGE"].endswith("no errors")
    assert by_event["summary"]["PULLER_EXIT_CODE"] == "0"
    assert by_event["summary"]["MESSAGE"].startswith("job nightly: 1 of 1 domains backed up in ")


def test_an_error_in_the_journal(cli: CommandLine, in_the_journal: Listener) -> None:
    assert cli("points", "-r", "/nonexistent/repository").err == ""
    (entry,) = map(fields, in_the_journal.all())
    assert (entry["PRIORITY"], entry["PULLER_EVENT"]) == ("3", "error")
    assert (entry["PULLER_ERROR"], entry["PULLER_EXIT_CODE"]) == ("NoRepository", "10")
    assert entry["MESSAGE"].startswith("puller: no repository at ")
    assert entry["MESSAGE"].count("\n") == 1


def test_without_a_journal_there_is_stderr(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    journal.Journal(str(tmp_path / "nothing"))(Line("to somebody"))
    assert capsys.readouterr().err == "to somebody\n"


def test_stderr_that_leads_elsewhere(repository: puller.Repository, folder: Path) -> None:
    answer = process("points", "-r", "/nonexistent", environment={"JOURNAL_STREAM": "1:2"})
    assert answer.err.startswith("puller: ")
