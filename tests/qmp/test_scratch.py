"""A guest without libvirt that writes more than the scratch holds sees no error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import puller
from puller.errors import MonitorRefused, ScratchFull
from puller.qmp.machine import QemuMachine
from puller.qmp.monitor import Monitor
from tests.integration.conftest import Truth, restored
from tests.integration.test_scratch import SIZE, Writer, room
from tests.lab.machine import DiskSpec
from tests.qmp.conftest import BareFactory

__all__ = ["room"]


def test_the_run_is_ended_before_a_write_fails(
    bare_factory: BareFactory, repository: puller.Repository, truth: Truth, room: Path, tmp_path: Path
) -> None:
    machine = bare_factory(DiskSpec("vda", SIZE))
    machine.write("vda", 1, 0, SIZE)
    first = puller.backup(repository, machine.name, connect=machine.uri)
    with Writer(machine) as writer, pytest.raises(ScratchFull):
        puller.backup(
            repository,
            machine.name,
            connect=machine.uri,
            scratch_dir=str(room),
            full=True,
            pace=1 << 20,
            on_frozen=lambda exports: writer.start(),
        )
    assert machine.remains() == []
    assert list(room.iterdir()) == []
    assert machine.bitmaps() == {"vda": {first.checkpoint}}
    point = puller.backup(repository, machine.name, connect=machine.uri, on_frozen=truth)
    assert point.kind == "incremental"
    assert truth.equals(restored(repository, point, tmp_path), "vda", 1)


def test_a_newer_qemu_is_told_to_break_the_backup_and_not_the_guest(
    bare_factory: BareFactory, repository: puller.Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This QEMU may not know the option: then it says so, and the run leaves nothing."""
    machine = bare_factory(DiskSpec("vda", 1 << 20))
    asked: list[str] = []
    real = Monitor.ask

    def ask(self: Monitor, command: str, arguments: Any = None, doing: str = "") -> Any:
        asked.append(f"{command} {arguments}")
        return real(self, command, arguments, doing)

    monkeypatch.setattr(Monitor, "ask", ask)
    with monkeypatch.context() as patch:
        patch.setattr(QemuMachine, "takes", lambda *_: True)
        with pytest.raises(MonitorRefused, match="on-cbw-error"):
            puller.backup(repository, machine.name, connect=machine.uri)
    assert any("'on-cbw-error': 'break-snapshot'" in text for text in asked)
    assert machine.remains() == []
    assert machine.bitmaps() == {"vda": set()}
