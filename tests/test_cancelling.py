"""Every place that waits ends soon after its scope is cancelled, and nothing waits in another way."""

from __future__ import annotations

import ast
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import puller
from puller.cancelling import WORK, CancelScope, NoAnswer, growing_pauses
from puller.configuration.drills import DrillSettings
from puller.errors import Interrupted, PullerError, StoreUnavailable
from puller.events import ignore
from puller.host import programs
from puller.host.command import run_command
from puller.host.ssh import SshTarget
from puller.host.sshhost import SshHost
from puller.hypervisor import calls
from puller.hypervisor.job.events import JobEvents
from puller.jobs import workers
from puller.jobs.batch import Reporters
from puller.jobs.job import _Run
from puller.jobs.worker import Opening
from puller.nbd.block_status import block_status
from puller.nbd.connection import Connection
from puller.nbd.image import ImageServer
from puller.nbd.writer import Target
from puller.pipeline.buffers import BufferPool
from puller.pipeline.flow import Flow
from puller.pipeline.lane import Lane
from puller.pipeline.ratelimit import RateLimit
from puller.pipeline.readgate import GentleGate
from puller.recovery.booting import image_server, pulling
from puller.recovery.booting.held import machine_held
from puller.recovery.booting.record import BootedDisk
from puller.recovery.files import appliance
from puller.recovery.proving import waiting
from puller.recovery.proving.consoles import Consoles
from puller.recovery.targets import asking
from puller.store.parallel import each
from puller.store.wrapping.retrying import RetryingStore
from tests.lab.memory import MemoryStore
from tests.nbd.rogue import RogueServer

ENOUGH = 60.0
"""Seconds that no wait takes to end. Without a scope each lasts longer: the shortest policy is 150 s."""

LONG = 3600.0


@dataclass
class Place:
    """What a wait is given: its ``scope``, a ``folder``, and what to call when it is ``waiting``."""

    scope: CancelScope
    folder: Path
    patch: pytest.MonkeyPatch
    begun: threading.Event = field(default_factory=threading.Event)

    def waiting(self) -> None:
        self.begun.set()

    def hang(self, *_: object) -> None:
        self.begun.set()
        threading.Event().wait(LONG)


class Hanging(MemoryStore):
    """Gives no answer, ever."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self._place = place

    def get(self, key: str, *, max_size: int | None = None) -> bytes:
        self._place.hang()
        return b""

    def list(self, prefix: str) -> Iterator[Any]:
        self._place.hang()
        yield from ()


class Away(MemoryStore):
    """Is not there."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self._place = place

    def get(self, key: str, *, max_size: int | None = None) -> bytes:
        self._place.waiting()
        raise StoreUnavailable("connection refused")


class Silent(RogueServer):
    """Says welcome, and then nothing."""

    place: Place

    def answer(self, command: int, offset: int, length: int) -> bytes | None:
        self.place.waiting()
        return None


@contextmanager
def silent(place: Place) -> Iterator[str]:
    with Silent(place.folder, 1 << 20) as server:
        server.place = place
        yield server.uri


def _connect(place: Place) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place.folder / "mute"))
        listener.listen()
        place.waiting()
        Connection(f"nbd+unix:///?socket={place.folder / 'mute'}", scope=place.scope)


def _nbd(work: Callable[[Connection], object]) -> Callable[[Place], None]:
    def wait(place: Place) -> None:
        with silent(place) as uri:
            connection = Connection(uri, "base:allocation", place.scope)
            try:
                work(connection)
            finally:
                connection.drop()

    return wait


def _target(place: Place) -> None:
    with silent(place) as uri, Target(uri, place.scope) as target:
        target.write(0, memoryview(bytes(512)))


def _read_many(place: Place) -> None:
    store = RetryingStore(Hanging(place))
    list(each(place.scope, lambda scope, key: store.within(scope).get(key), "abc", 2))


def _in_flow(work: Callable[[Flow, Place], object]) -> Callable[[Place], None]:
    def wait(place: Place) -> None:
        with Flow(place.scope) as flow:
            work(flow, place)

    return wait


def _fill(flow: Flow, place: Place) -> None:
    lane: Lane[int] = flow.adopt(Lane(1))
    lane.put(1)
    place.waiting()
    lane.put(2)


def _take(flow: Flow, place: Place) -> None:
    place.waiting()
    lane: Lane[int] = flow.adopt(Lane(1))
    next(iter(lane))


def _acquire(flow: Flow, place: Place) -> None:
    pool = flow.adopt(BufferPool(1, 4096))
    pool.acquire()
    place.waiting()
    pool.acquire()


def _pass(flow: Flow, place: Place) -> None:
    gate = flow.adopt(GentleGate(1 << 20))
    gate.enter()
    place.waiting()
    gate.enter()


def _rate(flow: Flow, place: Place) -> None:
    limit = flow.adopt(RateLimit(1))
    limit.take(1 << 20)
    place.waiting()
    limit.take(1)


def _hook(place: Place) -> None:
    mark = place.folder / "begun"
    threading.Thread(target=lambda: _await(mark.exists, place), daemon=True).start()
    run_command(["sh", "-c", f"touch {mark}; sleep {LONG:.0f}"], {}, place.scope, LONG)


def _program(place: Place) -> None:
    mark = place.folder / "begun"
    threading.Thread(target=lambda: _await(mark.exists, place), daemon=True).start()
    programs.run(["sh", "-c", f"touch {mark}; exec sleep {LONG:.0f}"], LONG, place.scope)


def _qemu_nbd(place: Place) -> None:
    mark, tool = place.folder / "begun", place.folder / "qemu-nbd"
    tool.write_text(f"#!/bin/sh\ntouch {mark}\nexec sleep {LONG:.0f}\n")
    tool.chmod(0o700)
    place.patch.setenv("PATH", str(place.folder), prepend=":")
    place.patch.setattr("puller.nbd.qemu_nbd._START_SECONDS", LONG)
    threading.Thread(target=lambda: _await(mark.exists, place), daemon=True).start()
    ImageServer.read_only(place.folder / "image", "raw", scope=place.scope)


def _appliance(place: Place) -> None:
    place.patch.setattr(appliance, "_command", lambda _: ["sleep", str(LONG)])
    with appliance.Appliance(place.scope) as guest:
        place.waiting()
        guest.call("launch")


def _ssh(place: Place) -> None:
    mark, tool = place.folder / "begun", place.folder / "ssh"
    tool.write_text(f"#!/bin/sh\ntouch {mark}\nexec sleep {LONG:.0f}\n")
    tool.chmod(0o700)
    threading.Thread(target=lambda: _await(mark.exists, place), daemon=True).start()
    SshHost(SshTarget("kvm1", program=str(tool))).greet(place.scope)


def _await(condition: Callable[[], bool], place: Place) -> None:
    while not condition():
        threading.Event().wait(0.01)
    place.waiting()


def _libvirt(place: Place) -> None:
    place.patch.setattr(calls, "LEAVE", 0.2)
    calls.Guarded(SimpleNamespace(backupBegin=place.hang), calls.Link(), place.scope).backupBegin()


def _ask_libvirt(place: Place) -> None:
    place.patch.setattr(asking, "_ask", place.hang)
    place.patch.setattr(asking, "ANSWER_SECONDS", LONG)
    asking.ask("qemu:///system", place.scope, lambda host: host.uuids())


def _event(place: Place) -> None:
    domain: Any = SimpleNamespace(scope=place.scope)
    place.waiting()
    JobEvents(domain).wait(LONG)


def _worker(place: Place) -> None:
    """One that answers nothing, and ends when its stream does."""
    mark = place.folder / "begun"
    program = f"import socket, sys; own = socket.socket(fileno=int(sys.argv[1])); open('{mark}', 'w')"
    place.patch.setattr(workers, "_PROGRAM", f"{program}\nwhile own.recv(65536): pass")
    threading.Thread(target=lambda: _await(mark.exists, place), daemon=True).start()
    repository = puller.create_repository(str(place.folder / "r"))
    with workers.Workers(Opening.of(repository, "qemu:///system", {}), place.scope) as some:
        some.take("web1", ignore)


def _lease(place: Place) -> None:
    repository = puller.create_repository(str(place.folder / "r")).within(place.scope)
    place.patch.setattr("puller.jobs.job._PAUSE", LONG)
    job: Any = SimpleNamespace(name="nightly")
    run = _Run(repository, job, "", Reporters(ignore, ignore, ignore), DrillSettings())  # type: ignore[arg-type]
    place.waiting()
    run._await_lease(time.monotonic() + LONG)


def _image_server(place: Place) -> None:
    booted: Any = SimpleNamespace(name="web1-boot", socket=str(place.folder / "s"), runtime=str(place.folder))
    place.patch.setattr(image_server, "START_SECONDS", LONG)
    place.waiting()
    image_server.wait_ready(booted, place.scope)


def _pull(place: Place) -> None:
    place.patch.setattr(pulling, "_INTERVAL", LONG)
    place.patch.setattr("puller.recovery.booting.pulling.Host.connect", lambda *_: SimpleNamespace())
    place.patch.setattr(pulling._Pulling, "_is_behind", lambda *_: True)

    def look(*_: object) -> bool:
        place.waiting()
        return True

    place.patch.setattr(pulling._Pulling, "_look", look)
    place.patch.setattr(pulling._Pulling, "_slow_down", lambda *_: None)
    place.patch.setattr(pulling._Pulling, "_prepare", lambda *_: None)
    place.patch.setattr(pulling._Pulling, "_require_room", lambda *_: None)
    booted: Any = SimpleNamespace(name="web1-boot", connect="qemu:///system")
    pulling._Pulling(booted, place.scope, None, ignore).pull(BootedDisk("vda", 1, "/vda.qcow2"))


def _discard(place: Place) -> None:
    machine: Any = SimpleNamespace(name="web1-boot", uuid=place.folder.name, folder=place.folder)
    place.patch.setattr(pulling, "_INTERVAL", LONG)
    with machine_held(machine):
        place.waiting()
        pulling._is_discarded(machine, place.scope)


def _evidence(place: Place) -> None:
    domain: Any = SimpleNamespace(scope=place.scope)
    place.patch.setattr(waiting, "why_ended", lambda domain: None)
    place.patch.setattr(waiting, "STEP", LONG)
    place.waiting()
    waiting.wait_for([], domain, Consoles(place.folder), LONG, lambda: None)


WAITS: dict[str, Callable[[Place], object]] = {
    "a request to the store": lambda place: RetryingStore(Hanging(place), place.scope).get("a"),
    "the next page of a listing": lambda place: list(RetryingStore(Hanging(place), place.scope).list("")),
    "the pause before the next try": lambda place: RetryingStore(Away(place), place.scope).get("a"),
    "objects that are read in parallel": _read_many,
    "the opening of an NBD connection": _connect,
    "an NBD read": _nbd(lambda connection: connection.read(512, 0)),
    "an NBD block status": _nbd(lambda connection: list(block_status(connection, 0, 512))),
    "an NBD write": _target,
    "the start of qemu-nbd": _qemu_nbd,
    "another program": _program,
    "the evidence of a drill": _evidence,
    "a login by ssh": _ssh,
    "room in a queue": _in_flow(_fill),
    "an item of a queue": _in_flow(_take),
    "a buffer of a pool": _in_flow(_acquire),
    "a read's turn": _in_flow(_pass),
    "a rate's turn": _in_flow(_rate),
    "an answer of libguestfs": _appliance,
    "a call of libvirt": _libvirt,
    "a question to libvirt before a restore": _ask_libvirt,
    "an event of libvirt": _event,
    "the start of an image server": _image_server,
    "a pull behind a running guest": _pull,
    "a discard behind a pull": _discard,
    "a command of a job": _hook,
    "the lease of another prune": _lease,
    "the answer of a worker": _worker,
}
"""Every kind of wait. The flush of a guest and the end of a job are in ``tests/backups``."""


@pytest.mark.parametrize("kind", WAITS)
@pytest.mark.parametrize("whose", ["own", "parent's"])
def test_a_wait_ends_when_its_scope_is_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, whose: str
) -> None:
    parent = CancelScope(WORK)
    place = Place(parent.child(), tmp_path, monkeypatch)
    met: list[BaseException] = []

    def wait() -> None:
        try:
            WAITS[kind](place)
        except BaseException as error:  # noqa: BLE001 - looked at below
            met.append(error)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    assert place.begun.wait(ENOUGH)
    (place.scope if whose == "own" else parent).cancel()
    thread.join(ENOUGH)
    assert not thread.is_alive()
    assert [isinstance(error, PullerError) for error in met] == [True]


def test_a_scope_that_is_cancelled_leaves_its_parent_and_its_siblings_alone() -> None:
    parent = CancelScope()
    one, other = parent.child(), parent.child()
    one.cancel()
    assert (one.cancelled, other.cancelled, parent.cancelled) == (True, False, False)
    with pytest.raises(Interrupted):
        one.check()


def test_who_listens_too_late_is_called_at_once_and_who_has_forgotten_never() -> None:
    scope, called = CancelScope(), list[str]()
    scope.listen(forgotten := lambda: called.append("forgotten"))
    scope.forget(forgotten)
    scope.cancel()
    scope.child().listen(lambda: called.append("late"))
    assert called == ["late"]


def test_pauses_between_checks_are_short_at_first_and_then_as_long_as_allowed() -> None:
    pauses = list(islice(growing_pauses(0.02), 6))
    assert pauses == [0.002, 0.004, 0.008, 0.016, 0.02, 0.02]


def test_calls_use_a_thread_again_unless_it_hangs() -> None:
    scope, over = CancelScope(), threading.Event()

    def hang() -> threading.Thread:
        used.append(threading.current_thread())
        over.wait(ENOUGH)
        return threading.current_thread()

    used = [scope.call(threading.current_thread, lambda: ENOUGH) for _ in range(3)]
    assert len(set(used)) == 1
    with pytest.raises(NoAnswer):
        scope.call(hang, lambda: 0.0 if len(used) > 3 else ENOUGH / 100)
    try:
        assert used[3] is used[0]
        assert scope.call(threading.current_thread, lambda: ENOUGH) is not used[0]
    finally:
        over.set()


# --- nothing waits in another way -------------------------------------------------------------

ROOT = Path(puller.__file__).parent

ALLOWED = {
    ("cli/signals.py", "sleep"): "the thread that watches for signals wakes the main one",
    ("pipeline/lane.py", "wait"): "a flow closes its lanes",
    ("pipeline/buffers.py", "wait"): "a flow closes its pools",
    ("pipeline/gate.py", "wait"): "a flow closes its gates",
    ("pipeline/readgate.py", "wait"): "a flow closes its gates",
    ("host/command.py", "wait"): "the process has been killed",
    ("nbd/qemu_nbd.py", "wait"): "the process has been killed",
    ("recovery/files/appliance.py", "wait"): "the process has been killed",
    ("recovery/files/appliance_process.py", "sleep"): "the process ends itself afterwards",
    ("recovery/serving/channel.py", "sleep"): "the process ends itself afterwards",
    ("host/ssh.py", "wait"): "the process has been killed",
    ("host/sshhost.py", "wait"): "the process has been killed",
    ("hypervisor/guest/thawing.py", "wait"): "the process has been told to end",
    ("recovery/serving/process.py", "wait"): "its scope sets the event; the process has ended",
    ("cli/commands/serve.py", "wait"): "a signal ends the command",
    ("recovery/proving/waiting.py", "wait"): "the process has been killed",
    ("recovery/proving/prove.py", "ThreadPoolExecutor"): "drills have to clean up; their scope is cancelled",
    ("jobs/batch.py", "ThreadPoolExecutor"): "backups have to clean up; their scope is cancelled",
}
"""Waits that no scope ends, and what ends them."""


def _waits(path: Path) -> Iterator[str]:
    """Names of what could wait without a scope or a bound in the module at ``path``."""
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Import(names=names) if any(name.name == "contextvars" for name in names):
                yield "contextvars"
            case ast.ImportFrom(module="contextvars"):
                yield "contextvars"
            case ast.ImportFrom(module="concurrent.futures", names=names):
                yield from (name.name for name in names if name.name == "ThreadPoolExecutor")
            case ast.Call(func=ast.Attribute(attr="wait"), args=[], keywords=[]):
                yield "wait"
            case ast.Call(func=ast.Attribute(attr="sleep", value=ast.Name(id="time"))):
                yield "sleep"


def test_nothing_waits_without_a_scope_or_a_bound() -> None:
    found = {
        (str(path.relative_to(ROOT)), kind) for path in sorted(ROOT.rglob("*.py")) for kind in _waits(path)
    }
    assert found == ALLOWED.keys()
