"""Power cuts outside the repository: what counts as durable on this host survives, by the model of the
disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from puller.cli.output import metrics
from puller.hypervisor.storage.rollback_mark import RollbackMark, clear_mark, put_mark
from puller.recovery.booting import record
from puller.recovery.targets import outputs
from tests.lab.booted_record import booted
from tests.lab.fuse_memory import Quirks, mounted, records
from tests.lab.power_cut import Choice, Disk, Everything, Mixture, Names, Nothing, Tree

NAME = "disks/web1/vda.raw"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def mount(tmp_path: Path, log: Path) -> Iterator[Path]:
    with mounted(tmp_path / "mount", Quirks(log=str(log))) as folder:
        yield folder


def _after(log: Path, choice: Choice, cut: int | None = None) -> Tree:
    disk = Disk()
    for item in records(log)[:cut]:
        disk.follow(item)
    return disk.after(choice)


def _all_cuts(log: Path) -> Iterator[Tree]:
    for cut in range(len(records(log)) + 1):
        choices: list[Choice] = [Nothing(), Everything(), Names(), *map(Mixture, range(5))]
        for choice in choices:
            yield _after(log, choice, cut)


@pytest.mark.parametrize("publish", [outputs.add, outputs.replace])
def test_a_restored_file_in_new_directories(
    mount: Path, log: Path, publish: Callable[[Path, Path], None]
) -> None:
    """It is there when the restore has ended, and whole whenever it is there."""
    path = mount / NAME
    outputs.make_folder(path.parent)
    with outputs.raw(path, 8192, publish) as output:
        output.write(0, b"x" * 8192)
    assert _after(log, Nothing())[NAME] == b"x" * 8192
    assert {tree.get(NAME) for tree in _all_cuts(log)} == {None, b"x" * 8192}


def test_the_record_of_a_booted_machine(mount: Path, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else leads to what its guest has written."""
    monkeypatch.setenv("PULLER_STATE_DIR", str(mount / "state"))
    folder = record.make_folder(None, "web1")
    record.write(booted(folder))
    kept = _after(log, Nothing())["state/booted/web1/boot.json"]
    assert kept == (folder / "boot.json").read_bytes()


def test_the_mark_of_a_rollback(mount: Path, log: Path) -> None:
    image, mark = mount / "web1.qcow2", ".web1.qcow2.puller-rollback"
    image.touch()
    put_mark(image, RollbackMark("point", "vda", 4096))
    assert _after(log, Nothing())[mark] == (mount / mark).read_bytes()
    put_mark(image, RollbackMark("point", "vda", 0))
    assert None not in [_after(log, choice).get(mark) for choice in (Nothing(), Everything())]
    clear_mark(image)
    assert mark not in _after(log, Nothing())


def test_the_metrics_file_is_old_or_new(mount: Path, log: Path) -> None:
    """A file that lost its content would fail every later run."""
    path = mount / "puller.prom"
    for content in (b"first 1\n", b"second 2\n"):
        metrics._replace(path, content)
    assert {tree.get("puller.prom") for tree in _all_cuts(log)} == {None, b"first 1\n", b"second 2\n"}
