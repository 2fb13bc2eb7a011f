"""Prune beside the backup of a running machine."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

import puller
from puller.errors import Overtaken
from puller.events import Event, Step
from puller.units import MIB
from puller.upkeep.pruning.prune import prune
from puller.upkeep.retention.policy import Policy
from tests.integration.conftest import Truth, checkpoints, restored
from tests.lab.fixtures import MachineFactory
from tests.lab.machine import DiskSpec
from tests.lab.rivals import EXPECTED, SIZE, Rivals


def test_prune_at_every_step_of_a_backup_does_no_harm(
    url: str, machine_factory: MachineFactory, libvirt_uri: str, truth: Truth, tmp_path: Path
) -> None:
    machine = machine_factory(DiskSpec("vda", 20 * MIB))
    repository = puller.create_repository(url, password=None)
    other = puller.open_repository(url)

    def prune_beside(event: Event) -> None:
        if isinstance(event, Step):
            prune(other, Policy(last=1))

    for generation in range(3):
        machine.write("vda", generation + 1, generation * 3 * MIB, 5 * MIB)
        point = puller.backup(
            repository, machine.name, connect=libvirt_uri, on_frozen=truth, observer=prune_beside
        )
    assert point.kind == "incremental"
    report = prune(other, Policy(last=1), timedelta(0))
    assert report.kept == (point.point,)
    assert report.packs_deleted > 0
    assert truth.equals(restored(repository, point, tmp_path), "vda", 3)
    assert puller.check(repository, read_data=100).errors == ()


def test_a_backup_that_prune_overtakes_fails_and_the_next_one_is_incremental(
    url: str, machine_factory: MachineFactory, libvirt_uri: str, truth: Truth, tmp_path: Path
) -> None:
    machine = machine_factory(DiskSpec("vda", 20 * MIB))
    repository = puller.create_repository(url, password=None)
    other = puller.open_repository(url)

    def prune_in_a_hurry(event: Event) -> None:
        if isinstance(event, Step) and event.name == "commit":
            assert prune(other, Policy(), timedelta(0)).packs_deleted > 0

    machine.write("vda", 1, 0, 6 * MIB)
    first = puller.backup(repository, machine.name, connect=libvirt_uri, on_frozen=truth)
    machine.write("vda", 2, MIB, MIB)
    with pytest.raises(Overtaken) as failure:
        puller.backup(
            repository, machine.name, connect=libvirt_uri, on_frozen=truth, observer=prune_in_a_hurry
        )
    assert failure.value.retryable
    assert puller.list_points(repository) == [first]
    assert checkpoints(machine) == {first.checkpoint}
    second = puller.backup(repository, machine.name, connect=libvirt_uri, on_frozen=truth)
    assert second.kind == "incremental"
    for generation, point in ((1, first), (3, second)):
        assert truth.equals(restored(repository, point, tmp_path), "vda", generation)


@pytest.mark.parametrize("url", ["s3"], indirect=True)
def test_prune_and_compaction_beside_two_backups_do_no_harm(
    url: str, machine_factory: MachineFactory, libvirt_uri: str, tmp_path: Path
) -> None:
    machines = [machine_factory(DiskSpec("vda", SIZE)) for _ in range(2)]
    puller.create_repository(url, password=None)
    rivals = Rivals(url, libvirt_uri, tmp_path, seed=1)
    rivals.play(machines, rounds=3)
    assert rivals.verify() >= 2
    counts = rivals.counts
    assert counts["committed"] >= 6
    assert counts["incremental"] == counts["committed"] - 2
    assert all(counts[name] for name in EXPECTED), counts
