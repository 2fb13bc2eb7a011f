"""A job that waits: for another host's prune, or for its store."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import libvirt
import pytest

import puller
from puller import api
from puller.cancelling import CancelScope, RetryPolicy
from puller.errors import Locked, StoreUnavailable
from puller.repository.collecting.lease import Lease
from puller.store.base import Body
from puller.store.directory.folder import FolderStore
from puller.units import MIB
from tests.cli.conftest import CommandLine
from tests.cli.run.setting import Setting
from tests.lab.archive import make_point
from tests.lab.fixtures import MachineFactory
from tests.lab.machine import DiskSpec


def test_a_prune_waits_for_the_end_of_another_hosts(
    cli: CommandLine,
    setting: Setting,
    repository: puller.Repository,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    point = make_point(repository, {"vda": b"x"}, tags={"job": "nightly"})
    setting.job('domains = ["web1"]\nkeep = { last = 1 }')
    with ExitStack() as elsewhere:
        elsewhere.enter_context(Lease.take(repository.store, repository.keys.boxes(), "prune"))
        waited: list[float] = []

        def end(_: CancelScope, seconds: float) -> None:
            waited.append(seconds)
            elsewhere.close()

        monkeypatch.setattr(CancelScope, "pause", end)
        answer = cli("run", "nightly", "--only", "prune", "--json")
    assert answer.document["prune"]["kept"] == [point.point]
    assert len(waited) == 1
    assert "another prune is running" in answer.err
    # But not for ever.
    with Lease.take(repository.store, repository.keys.boxes(), "prune"):
        monkeypatch.setattr("puller.jobs.job.PRUNE_PATIENCE", -1.0)
        assert cli("run", "nightly", "--only", "prune", "--json").error["code"] == 11


def test_a_prune_that_cannot_read_what_is_pending_fails_once(
    cli: CommandLine,
    setting: Setting,
    repository: puller.Repository,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    point = make_point(repository, {"vda": b"x"}, tags={"job": "nightly"})
    pending = folder / "pending" / point.uuid / point.point
    pending.parent.mkdir(parents=True)
    pending.write_bytes(b"torn")
    setting.job('domains = ["web1"]\nkeep = { last = 1 }')
    tried: list[object] = []
    real = api.prune

    def prune(*words: Any, **choices: Any) -> object:
        tried.append(words)
        assert len(tried) == 1, "it is tried again without an end"
        return real(*words, **choices)

    monkeypatch.setattr(api, "prune", prune)
    (folder / "points" / point.uuid / point.point).unlink()  # else it is known to have been committed
    error = cli("run", "nightly", "--only", "prune", "--json").error
    assert (error["code"], error["name"]) == (11, "CommitUnreadable")
    assert "that the pending point" in error["message"] and "ignored after a day" in error["advice"]


def test_each_attempt_to_prune_waits_for_its_turn(
    cli: CommandLine, setting: Setting, repository: puller.Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if nobody holds the lease any more by the time somebody looks."""
    make_point(repository, {"vda": b"x"}, tags={"job": "nightly"})
    setting.job('domains = ["web1"]\nkeep = { last = 1 }')
    did: list[str] = []
    real = api.prune

    def prune(*words: Any, **choices: Any) -> object:
        did.append("try")
        if len(did) < 4:
            raise Locked("another prune is running in this repository")
        return real(*words, **choices)

    monkeypatch.setattr(api, "prune", prune)
    monkeypatch.setattr(CancelScope, "pause", lambda _, seconds: did.append("wait"))
    assert cli("run", "nightly", "--only", "prune").code == 0
    assert did == ["try", "wait", "try", "wait", "try"]


class Away(FolderStore):
    """Gives no answer to the first two requests."""

    refusals = 2

    def within(self, scope: CancelScope) -> Self:
        return self

    def get(self, key: str, *, max_size: int | None = None) -> bytes:
        if self.refusals:
            self.refusals -= 1
            raise StoreUnavailable("connection refused")
        return super().get(key, max_size=max_size)


def test_a_store_that_is_away_as_the_job_begins_is_waited_for(
    cli: CommandLine, setting: Setting, repository: puller.Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command that a person types fails at once."""
    point = make_point(repository, {"vda": b"x"}, tags={"job": "nightly"})
    setting.job('domains = ["web1"]\nkeep = { last = 1 }')
    monkeypatch.setattr("puller.cancelling.PROMPT", RetryPolicy(0.0))
    monkeypatch.setattr("puller.api.repositories.open_store", lambda url, _: Away(Path(url)))
    assert cli("points", "--json").error["code"] == 14
    answer = cli("run", "nightly", "--only", "prune", "--json")
    assert answer.document["prune"]["kept"] == [point.point]
    assert "repository: the store does not answer; trying again for 150 s: connection refused" in answer.err
    assert "repository: the store answers again" in answer.err


@pytest.mark.parametrize("place", ["pending/", "points/"])
def test_a_signal_while_the_store_hangs_in_the_commit_of_one_of_several(
    cli: CommandLine,
    setting: Setting,
    machine_factory: MachineFactory,
    repository: puller.Repository,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
) -> None:
    """Nothing waits for that request. The other domain's point is committed and reported, and no job stays
    open."""
    stuck, other = (machine_factory(DiskSpec("vda", MIB)) for _ in range(2))
    released, stored = threading.Event(), threading.Event()
    put_new = FolderStore.put_new

    def hang(self: FolderStore, key: str, body: Body) -> None:
        if key.startswith(f"{place}{stuck.uuid}/"):
            assert stored.wait(60)
            os.kill(os.getpid(), signal.SIGTERM)
            released.wait()
        put_new(self, key, body)
        if key.startswith(f"points/{other.uuid}/"):
            stored.set()

    setting.job(f'domains = ["{stuck.name}", "{other.name}"]\nparallel = 2')
    monkeypatch.setattr(FolderStore, "put_new", hang)
    began = time.monotonic()
    try:
        answer = cli("run", "nightly", "--json")
        took = time.monotonic() - began
        left = list(tmp_path.rglob("*.scratch"))
        with pytest.raises(libvirt.libvirtError, match="backup"):
            stuck.handle.backupGetXMLDesc()
    finally:
        released.set()
    assert (answer.code, left) == (130, []), answer
    assert took < 30, "not as long as a silent store is waited for"
    assert {point["domain"] for point in answer.document["points"]} == {other.name}
    assert stuck.name in {failed["domain"] for failed in answer.document["failed"]}
