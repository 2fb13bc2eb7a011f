"""Looks at images of disks that are in use, without a guest."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest

import puller
from puller.agent import look
from puller.agent.look import Look
from puller.hypervisor.disk import Disk
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
    begun = Look(repository, disk, point.disks[0])
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
