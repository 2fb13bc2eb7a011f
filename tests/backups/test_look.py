"""Looks at images of disks that are in use, without a guest."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest

import puller
from puller.backups.sources import look
from puller.backups.sources.look import Look
from puller.hypervisor.domain.disk import Disk
from puller.store.patience import Patience, holding
from puller.units import MIB
from tests.lab.archive import make_point


def test_the_wait_for_a_guests_flush_ends_with_the_patience(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In parallel backups a signal raises nothing where the disks are looked at."""
    monkeypatch.setattr(look, "_FLUSH", 3600.0)
    image = tmp_path / "vda.raw"
    image.write_bytes(bytes(MIB))
    disk = Disk("vda", str(image), "file", "raw", "disk", False, False, False, image)
    repository = puller.create_repository(str(tmp_path / "r"), password=None)
    point = make_point(repository, {"vda": random.Random(1).randbytes(MIB)})
    told: list[str] = []
    begun = Look(repository, disk, point.disks[0], told.append)
    found: list[bool] = []
    waiting = Patience(60)

    def wait() -> None:
        with holding(waiting):
            found.append(begun.is_foreign(15))

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    waiting.end()
    thread.join(30)
    assert found == [True]


def test_a_wait_for_a_guests_flush_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = tmp_path / "vda.raw"
    image.write_bytes(bytes(MIB))
    disk = Disk("vda", str(image), "file", "raw", "disk", False, False, False, image)
    repository = puller.create_repository(str(tmp_path / "r"), password=None)
    written = random.Random(1).randbytes(MIB)
    point = make_point(repository, {"vda": written})
    pauses: list[float] = []

    def flush(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            image.write_bytes(written)

    told: list[str] = []
    begun = Look(repository, disk, point.disks[0], told.append)
    waiting = Patience(60)
    monkeypatch.setattr(waiting, "pause", flush)
    with holding(waiting):
        assert not begun.is_foreign(15)
    assert len(pauses) == 2
    assert told == ["waiting up to 35 s for the guest to flush what the last point holds of it"]
