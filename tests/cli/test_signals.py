"""Signals: the first stops with 130 after cleaning up, the second ends at once, an ignored one is ignored."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

import puller
from puller.events import DiskPlanned, Event, Observer, Step
from puller.repository.points import Points
from puller.units import MIB
from tests.cli.conftest import CommandLine, command
from tests.lab.archive import make_point
from tests.lab.fixtures import MachineFactory
from tests.lab.machine import DiskSpec


class SilentServer:
    """Takes connections and never answers: what a command waits for when it hangs in a store."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.environment = {
            **os.environ,
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{self._listener.getsockname()[1]}",
            "AWS_ACCESS_KEY_ID": "x",
            "AWS_SECRET_ACCESS_KEY": "x",
            "AWS_DEFAULT_REGION": "us-east-1",
            "NO_PROXY": "127.0.0.1",
        }

    def wait_for_a_request(self) -> socket.socket:
        connection, _ = self._listener.accept()
        connection.recv(1)
        return connection

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def silent() -> Iterator[SilentServer]:
    server = SilentServer()
    yield server
    server.close()


DEFAULT = ("env", "--default-signal=HUP,INT,TERM")
"""Shells start background jobs with SIGINT ignored, and the tests may be one."""


def _start(words: Sequence[str], environment: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _end(running: subprocess.Popen[str]) -> tuple[str, str]:
    """What it wrote. One that a signal did not stop would wait for ever."""
    try:
        return running.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        running.kill()
        raise


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_what_waits_for_a_store(silent: SilentServer, number: signal.Signals) -> None:
    words = [*DEFAULT, *command("points", "-r", "s3://bucket", "--json")]
    with _start(words, silent.environment) as running, silent.wait_for_a_request():
        running.send_signal(number)
        out, err = _end(running)
    error = json.loads(out)["error"]
    assert running.returncode == error["code"] == 130
    assert (error["name"], error["retryable"]) == ("Interrupted", True)
    assert number.name in error["message"]
    assert "Traceback" not in err
    assert len(err.splitlines()) == 2


def test_an_ignored_signal_stays_ignored(silent: SilentServer) -> None:
    words = [*DEFAULT, "env", "--ignore-signal=HUP", *command("points", "-r", "s3://bucket", "--json")]
    with _start(words, silent.environment) as running, silent.wait_for_a_request():
        running.send_signal(signal.SIGHUP)
        running.send_signal(signal.SIGTERM)
        out, _ = _end(running)
    assert "SIGTERM" in json.loads(out)["error"]["message"]


def test_a_second_signal_ends_even_a_call_that_hears_none() -> None:
    """A call of C that waits on after a signal, as libvirt's and libnbd's do: here, a mutex locked twice."""
    script = """
import contextlib, ctypes
from puller.cli import signals
from puller.cli.signals import Stopped, stop_on_signals
signals.TOGETHER = 0.0
lock, libc = ctypes.create_string_buffer(64), ctypes.CDLL(None)
libc.pthread_mutex_lock(lock)
with stop_on_signals(lambda: None):
    while True:
        with contextlib.suppress(Stopped):
            print("deaf", flush=True)
            libc.pthread_mutex_lock(lock)
"""
    with _start([*DEFAULT, sys.executable, "-c", script]) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "deaf\n"
        running.send_signal(signal.SIGTERM)
        running.send_signal(signal.SIGINT)
        _end(running)
    assert running.returncode == 130


def test_signals_at_the_same_instant_are_one_request() -> None:
    """As a closing session sends them. Blocked until both have come, they are told to the process at once."""
    script = """
import os, signal, threading
from puller.cli.signals import Stopped, stop_on_signals
both = (signal.SIGTERM, signal.SIGHUP)
signal.pthread_sigmask(signal.SIG_BLOCK, both)
try:
    with stop_on_signals(lambda: None):
        watching = [thread for thread in threading.enumerate() if thread.name == "signals"]
        for number in both:
            os.kill(os.getpid(), number)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, both)
except Stopped:
    watching[0].join()  # it has seen both
    print("cleaned up")
"""
    with _start([*DEFAULT, sys.executable, "-c", script]) as running:
        out, err = _end(running)
    assert (out, err, running.returncode) == ("cleaned up\n", "", 0)


def _threads(process: int) -> list[int]:
    """The ids of its threads, the main one first."""
    return sorted(int(task.name) for task in Path(f"/proc/{process}/task").iterdir())


_WAITS = {
    "join": "threads[0].join()",
    "lock": "lock.acquire()",
    "event": "threading.Event().wait()",
    "pool": "concurrent.futures.wait([concurrent.futures.Future()])",
}


@pytest.mark.parametrize("wait", _WAITS)
@pytest.mark.parametrize("place", range(4), ids=["main", "watch", "elder", "youngest"])
def test_a_signal_is_heard_whichever_thread_the_kernel_gives_it(wait: str, place: int) -> None:
    """The kernel chooses a thread by itself, mostly the main one: here it is told which."""
    script = f"""
import concurrent.futures, threading
from puller.cli.signals import Stopped, stop_on_signals
lock = threading.Lock()
lock.acquire()
try:
    with stop_on_signals(lambda: None):
        threads = [threading.Thread(target=threading.Event().wait, daemon=True) for _ in range(2)]
        for thread in threads:
            thread.start()
        print("waits", flush=True)
        {_WAITS[wait]}
except Stopped as stop:
    print(stop.signal)
"""
    with _start([*DEFAULT, sys.executable, "-c", script]) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "waits\n"
        tasks = _threads(running.pid)
        assert len(tasks) == 4
        tgkill = 234
        assert ctypes.CDLL(None).syscall(tgkill, running.pid, tasks[place], signal.SIGTERM.value) == 0
        out, err = _end(running)
    assert (out, err, running.returncode) == ("SIGTERM\n", "", 0)


def test_ctrl_c_while_the_program_is_loaded_shows_no_traceback(tmp_path: Path) -> None:
    """Loading takes 0.1 s: here, as long as it takes until a module of it reads a pipe."""
    (tmp_path / "click.py").write_text("import sys; print('loading', flush=True); sys.stdin.read()\n")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{Path(puller.__file__).parents[1]}"}
    words = [*DEFAULT, *command("points")]
    with subprocess.Popen(
        words,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "loading\n"
        running.send_signal(signal.SIGINT)
        _, err = _end(running)
    assert (err, running.returncode) == ("", -signal.SIGINT)


def _stop_at(kind: type[Event], monkeypatch: pytest.MonkeyPatch, command: str, name: str = "") -> None:
    """Send this process SIGTERM when ``command`` tells an event of this kind from its main thread."""

    def observe(event: Event) -> None:
        if isinstance(event, kind) and (not name or name == getattr(event, "name", "")):
            os.kill(os.getpid(), signal.SIGTERM)

    @contextmanager
    def observing(*unused: object) -> Iterator[Observer]:
        yield observe

    monkeypatch.setattr(f"puller.cli.commands.{command}.observing", observing)


def test_an_interrupted_restore_leaves_nothing(
    cli: CommandLine,
    repository: puller.Repository,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    point = make_point(repository, {"vda": b"x" * MIB})
    _stop_at(DiskPlanned, monkeypatch, "restore")
    answer = cli("restore", point.point, "-r", str(folder), "-o", str(tmp_path / "out"), "--json")
    assert answer.error["code"] == 130
    assert list((tmp_path / "out").iterdir()) == []


def test_an_interrupted_backup_leaves_nothing_and_tells_what_was_done(
    cli: CommandLine,
    repository: puller.Repository,
    folder: Path,
    machine_factory: MachineFactory,
    libvirt_uri: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine = machine_factory(DiskSpec("vda", MIB))
    places = ["-r", str(folder), "-c", libvirt_uri, "--json"]
    (first,) = cli("backup", machine.name, *places).document["points"]
    _stop_at(Step, monkeypatch, "backup", "store")
    answer = cli("backup", "nosuch", machine.name, "never", *places)
    assert answer.error["code"] == 130
    assert [failed["domain"] for failed in answer.document["failed"]] == ["nosuch", machine.name]
    assert [point.point for point in puller.list_points(repository)] == [first["point"]]
    assert [checkpoint.getName() for checkpoint in machine.handle.listAllCheckpoints()] == [
        first["checkpoint"]
    ]
    assert not list(tmp_path.rglob("*.scratch"))
    monkeypatch.undo()
    (second,) = cli("backup", machine.name, *places).document["points"]
    assert second["kind"] == "incremental"


@pytest.mark.parametrize("step", ["end", "retire"])
def test_a_signal_after_the_commit_tells_that_the_point_is_stored(
    cli: CommandLine,
    repository: puller.Repository,
    folder: Path,
    machine_factory: MachineFactory,
    libvirt_uri: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
) -> None:
    machine = machine_factory(DiskSpec("vda", MIB))
    places = ["-r", str(folder), "-c", libvirt_uri, "--json"]
    cli("backup", machine.name, *places)
    _stop_at(Step, monkeypatch, "backup", step)
    answer = cli("backup", machine.name, "never", *places)
    stored = puller.list_points(repository)[-1].point
    assert (answer.error["code"], len(puller.list_points(repository))) == (130, 2)
    assert [point["point"] for point in answer.document["points"]] == [stored]
    assert answer.document["failed"] == []
    assert [left["domain"] for left in answer.document["left"]] == [machine.name]
    assert answer.error["advice"] == f"Run the same command again for the other domains; stored: {stored}."
    assert not list(tmp_path.rglob("*.scratch"))
    monkeypatch.undo()
    (third,) = cli("backup", machine.name, *places).document["points"]
    assert (third["kind"], third["parent"]) == ("incremental", stored)


def test_a_signal_within_the_commit_once_the_point_is_put(
    cli: CommandLine,
    repository: puller.Repository,
    folder: Path,
    machine_factory: MachineFactory,
    libvirt_uri: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The point has its checkpoint: the next run is incremental by it."""
    machine = machine_factory(DiskSpec("vda", MIB))
    places = ["-r", str(folder), "-c", libvirt_uri, "--json"]
    commit = Points.commit

    def interrupted(points: Points, point: puller.Point) -> None:
        commit(points, point)
        signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Points, "commit", interrupted)
        answer = cli("backup", machine.name, *places)
    (stored,) = puller.list_points(repository)
    assert answer.error["code"] == 130 and stored.point in answer.error["advice"]
    (second,) = cli("backup", machine.name, *places).document["points"]
    assert (second["kind"], second["parent"]) == ("incremental", stored.point)
