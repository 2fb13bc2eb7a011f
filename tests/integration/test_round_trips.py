"""The sequential round trips of an incremental backup."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

import puller
from puller.repository import repository as repositories
from puller.repository.keys.key_slots import Password
from puller.store.wrapping.retrying import RetryingStore
from puller.units import CHUNK, MIB
from tests.lab.fixtures import MachineFactory
from tests.lab.machine import DiskSpec, Machine
from tests.lab.memory import MemoryStore
from tests.lab.roundtrips import RoundTrips

AT_MOST = 12
ADDRESS = "memory: of this test"


def change(machine: Machine, folder: Path, seed: int) -> None:
    """Write 100 scattered chunks."""
    noise = random.Random(seed)
    source = folder / "noise"
    for place in noise.sample(range(128 * MIB // CHUNK), 100):
        source.write_bytes(noise.randbytes(CHUNK))
        machine.copy_in("vda", source, place * CHUNK, CHUNK)


def test_an_incremental_of_100_chunks(
    machine_factory: MachineFactory, libvirt_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PULLER_CACHE_DIR", str(tmp_path / "cache"))
    machine = machine_factory(DiskSpec("vda", 128 * MIB))
    (tmp_path / "whole").write_bytes(random.Random(7).randbytes(64 * MIB))
    machine.copy_in("vda", tmp_path / "whole", 0, 64 * MIB)
    store = RoundTrips(MemoryStore(), lambda: [machine.pid()])
    repositories.create(RetryingStore(store), Password("x"), ADDRESS)

    def backup() -> puller.Point:
        # A process of its own would have no cached footers, so the repository is opened each time.
        repository = repositories.open_repository(RetryingStore(store), Password("x"), ADDRESS)
        return puller.backup(repository, machine.name, connect=libvirt_uri)

    backup()
    for turn in range(3):
        change(machine, tmp_path, turn)
        backup()
    change(machine, tmp_path, 4)
    with store.counting():
        point = backup()
    assert point.kind == "incremental"
    assert len(store.rounds) <= AT_MOST, "\n".join(", ".join(trip) for trip in store.rounds)
