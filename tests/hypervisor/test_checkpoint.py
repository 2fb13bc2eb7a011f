from __future__ import annotations

import libvirt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from puller.errors import CheckpointUnusable, HypervisorError
from puller.hypervisor.domain import checkpoint as checkpoints
from puller.hypervisor.domain.checkpoint import Checkpoint
from puller.units import KIB, MIB
from tests.hypervisor.conftest import REPOSITORY, BenchFactory, checkpoint
from tests.lab.fixtures import MachineFactory
from tests.lab.machine import DiskSpec

identifiers = st.text("0123456789abcdef", min_size=32, max_size=32)
points = st.text("0123456789abcdefTZ-", min_size=1, max_size=30)


@given(identifiers, points)
def test_a_name_leads_back_to_its_point(repository: str, point: str) -> None:
    name = checkpoints.checkpoint_name(repository, point)
    assert name == f"puller-{repository[:12]}-{point}"
    assert name.startswith(checkpoints.owner_prefix(repository))
    assert checkpoints.point_of(name, repository) == point


@given(identifiers, identifiers, points)
def test_a_name_of_another_repository_has_no_point_here(first: str, second: str, point: str) -> None:
    name = checkpoints.checkpoint_name(first, point)
    if first[:12] != second[:12]:
        assert checkpoints.point_of(name, second) is None


@pytest.mark.parametrize("name", ["", "daily", "puller-", "puller-0123456789ab", "puller-0123456789ab-"])
def test_a_foreign_name_has_no_point(name: str) -> None:
    assert checkpoints.point_of(name, REPOSITORY) is None


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=8))
def test_order_is_by_age_with_parents_first(shape: list[tuple[int, int]]) -> None:
    """A forest: number ``i`` was created at the drawn second, below a drawn earlier number or none."""
    made = [
        Checkpoint(f"c{index}", frozenset(), created, f"c{parent}" if parent < index else None)
        for index, (created, parent) in enumerate(shape)
    ]
    ordered = checkpoints._oldest_first(reversed(made))
    assert sorted(item.name for item in ordered) == sorted(item.name for item in made)
    place = {item.name: index for index, item in enumerate(ordered)}
    assert all(item.parent is None or place[item.parent] < place[item.name] for item in ordered)
    roots = [item.created for item in ordered if item.parent is None]
    assert roots == sorted(roots)


def test_a_full_with_checkpoint_and_then_what_changed(
    machine_factory: MachineFactory, bench: BenchFactory
) -> None:
    machine = machine_factory(DiskSpec("vda", 8 * MIB), DiskSpec("vdb", 1_000_448))
    work = bench(machine)
    machine.write("vda", 1, 0, 2 * MIB)
    assert work.take(1, {"vda": None, "vdb": None}) == {"vda": None, "vdb": None}
    machine.write("vda", 2, 1 * MIB, 64 * KIB)
    machine.discard("vda", 1 * MIB + 128 * KIB, 64 * KIB)
    machine.write_zeroes("vda", 5 * MIB, 64 * KIB)
    machine.write("vdb", 3, 999_936, 512)
    assert checkpoints.dirty_bytes(work.domain, checkpoint(1)) == {"vda": 192 * KIB, "vdb": 64 * KIB}
    assert work.take(2, {"vda": 1, "vdb": 1}) == {
        "vda": [(1 * MIB, 64 * KIB), (1 * MIB + 128 * KIB, 64 * KIB), (5 * MIB, 64 * KIB)],
        "vdb": [(15 * 64 * KIB, 1_000_448 - 15 * 64 * KIB)],
    }
    both = frozenset({"vda", "vdb"})
    first, second = checkpoints.list_checkpoints(work.domain)
    assert (first.name, first.parent, first.disks) == (checkpoint(1), None, both)
    assert (second.name, second.parent, second.disks) == (checkpoint(2), checkpoint(1), both)
    assert 0 < first.created <= second.created


def test_retiring_the_older_checkpoint_keeps_the_newer_exact(
    machine_factory: MachineFactory, bench: BenchFactory
) -> None:
    machine = machine_factory(DiskSpec("vda", 8 * MIB))
    work = bench(machine)
    work.take(1, {"vda": None})
    machine.write("vda", 1, 0, 64 * KIB)
    work.take(2, {"vda": 1})
    machine.write("vda", 2, 1 * MIB, 64 * KIB)
    checkpoints.delete(work.domain, checkpoint(1))
    assert work.checkpoints() == [checkpoint(2)]
    assert machine.bitmaps("vda") == {checkpoint(2)}
    assert work.take(3, {"vda": 2}) == {"vda": [(1 * MIB, 64 * KIB)]}


def test_deleting_the_newer_checkpoint_loses_no_change_since_the_older(
    machine_factory: MachineFactory, bench: BenchFactory
) -> None:
    machine = machine_factory(DiskSpec("vda", 8 * MIB))
    work = bench(machine)
    machine.write("vda", 1, 0, 64 * KIB)
    work.take(1, {"vda": None})
    machine.write("vda", 2, 1 * MIB, 64 * KIB)
    work.take(2, {"vda": 1})
    machine.write("vda", 3, 2 * MIB, 64 * KIB)
    checkpoints.delete(work.domain, checkpoint(2))
    assert work.take(3, {"vda": 1}) == {"vda": [(1 * MIB, 64 * KIB), (2 * MIB, 64 * KIB)]}
    assert work.checkpoints() == [checkpoint(1), checkpoint(3)]


def test_foreign_checkpoints_in_the_chain_stay_and_stay_exact(
    machine_factory: MachineFactory, bench: BenchFactory
) -> None:
    machine = machine_factory(DiskSpec("vda", 8 * MIB))
    work = bench(machine)
    work.take(1, {"vda": None})
    machine.handle.checkpointCreateXML("<domaincheckpoint><name>other-tool</name></domaincheckpoint>", 0)
    machine.write("vda", 1, 1 * MIB, 64 * KIB)
    work.take(2, {"vda": 1})
    machine.write("vda", 1, 2 * MIB, 64 * KIB)
    checkpoints.delete(work.domain, checkpoint(1))
    checkpoints.delete(work.domain, checkpoint(2))
    assert work.checkpoints() == ["other-tool"]
    assert machine.bitmaps("vda") == {"other-tool"}
    assert checkpoints.dirty_bytes(work.domain, "other-tool") == {"vda": 128 * KIB}


def test_a_foreign_checkpoint_cannot_be_deleted(machine_factory: MachineFactory, bench: BenchFactory) -> None:
    machine = machine_factory(DiskSpec("vda", MIB))
    machine.handle.checkpointCreateXML("<domaincheckpoint><name>other-tool</name></domaincheckpoint>", 0)
    work = bench(machine)
    with pytest.raises(ValueError, match="other-tool is not puller's"):
        checkpoints.delete(work.domain, "other-tool")
    assert work.checkpoints() == ["other-tool"]


def test_what_is_gone_is_told_apart(machine_factory: MachineFactory, bench: BenchFactory) -> None:
    work = bench(machine_factory(DiskSpec("vda", MIB)))
    checkpoints.delete(work.domain, checkpoint(1))
    assert checkpoints.dirty_bytes(work.domain, checkpoint(1)) == {}
    with pytest.raises(CheckpointUnusable, match=f"cannot read checkpoint {checkpoint(1)} of domain"):
        checkpoints.xml(work.domain, checkpoint(1))


def test_a_checkpoint_can_be_redefined_from_its_xml(
    machine_factory: MachineFactory, bench: BenchFactory
) -> None:
    """As on another host: the record is gone, the bitmap is in the image."""
    machine = machine_factory(DiskSpec("vda", 8 * MIB))
    work = bench(machine)
    work.take(1, {"vda": None})
    machine.write("vda", 1, 1 * MIB, 64 * KIB)
    record = checkpoints.xml(work.domain, checkpoint(1))
    machine.forget_checkpoints()
    assert work.checkpoints() == []
    machine.handle.checkpointCreateXML(record, libvirt.VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE)
    assert work.take(2, {"vda": 1}) == {"vda": [(1 * MIB, 64 * KIB)]}


@pytest.mark.parametrize("text", ["", "<domaincheckpoint>", "no XML", "<domaincheckpoint/>"])
def test_a_record_that_cannot_be_parsed_is_an_error_of_the_hypervisor(
    text: str, machine_factory: MachineFactory, bench: BenchFactory
) -> None:
    work = bench(machine_factory(DiskSpec("vda", MIB)))
    with pytest.raises(HypervisorError):
        checkpoints.redefine(work.domain, checkpoint(1), text)
    assert work.checkpoints() == []


def test_bitmaps_survive_an_orderly_stop(machine_factory: MachineFactory, bench: BenchFactory) -> None:
    machine = machine_factory(DiskSpec("vda", 8 * MIB))
    work = bench(machine)
    work.take(1, {"vda": None})
    machine.write("vda", 1, 1 * MIB, 64 * KIB)
    machine.stop()
    machine.start()
    assert checkpoints.dirty_bytes(work.domain, checkpoint(1)) == {"vda": 64 * KIB}
    assert work.take(2, {"vda": 1}) == {"vda": [(1 * MIB, 64 * KIB)]}


def test_a_stopped_domain_keeps_its_checkpoints(machine_factory: MachineFactory, bench: BenchFactory) -> None:
    machine = machine_factory(DiskSpec("vda", MIB))
    work = bench(machine)
    work.take(1, {"vda": None})
    machine.stop()
    with pytest.raises(HypervisorError, match=f"cannot delete checkpoint {checkpoint(1)} of domain"):
        checkpoints.delete(work.domain, checkpoint(1))
    assert work.checkpoints() == [checkpoint(1)]


def test_a_bitmap_that_was_lost_makes_its_disk_unusable_as_base(
    machine_factory: MachineFactory, bench: BenchFactory
) -> None:
    machine = machine_factory(DiskSpec("vda", 8 * MIB), DiskSpec("vdb", 8 * MIB))
    work = bench(machine)
    work.take(1, {"vda": None, "vdb": None})
    machine.write("vda", 1, 0, 64 * KIB)
    machine.lose_bitmap("vdb", checkpoint(1))
    assert checkpoints.dirty_bytes(work.domain, checkpoint(1)) == {"vda": 64 * KIB}
    with pytest.raises(CheckpointUnusable, match="'vdb'"):
        work.take(2, {"vda": 1, "vdb": 1})
    assert work.checkpoints() == [checkpoint(1)]
    assert work.leftovers() == []
    assert work.take(2, {"vda": 1, "vdb": None}) == {"vda": [(0, 64 * KIB)], "vdb": None}


def test_a_checkpoint_that_lost_a_bitmap_is_deleted_with_the_others(
    machine_factory: MachineFactory, bench: BenchFactory
) -> None:
    machine = machine_factory(DiskSpec("vda", 8 * MIB), DiskSpec("vdb", 8 * MIB), DiskSpec("vdc", 8 * MIB))
    work = bench(machine)
    everything: dict[str, int | None] = {"vda": None, "vdb": None, "vdc": None}
    for number in (1, 2, 3):
        work.take(number, everything)
    machine.lose_bitmap("vdb", checkpoint(2))
    checkpoints.delete(work.domain, checkpoint(2))
    assert work.checkpoints() == [checkpoint(1), checkpoint(3)]
    for target in everything:
        assert machine.bitmaps(target) == {checkpoint(1), checkpoint(3)}
    machine.write("vdb", 1, 0, 64 * KIB)
    assert work.take(4, {"vda": 1, "vdb": 3, "vdc": 1}) == {"vda": [], "vdb": [(0, 64 * KIB)], "vdc": []}
    assert checkpoints.list_checkpoints(work.domain)[-1].parent == checkpoint(3)


def test_after_a_crash_of_qemu_no_checkpoint_is_usable_and_all_can_be_deleted(
    machine_factory: MachineFactory, bench: BenchFactory
) -> None:
    """The bitmap that was stored before is inconsistent, the one made since QEMU's start is gone."""
    machine = machine_factory(DiskSpec("vda", 8 * MIB))
    work = bench(machine)
    work.take(1, {"vda": None})
    machine.stop()
    machine.start()
    work.take(2, {"vda": 1})
    machine.kill()
    machine.start()
    assert machine.bitmaps("vda") == {checkpoint(1)}
    for number in (1, 2):
        assert checkpoints.dirty_bytes(work.domain, checkpoint(number)) == {}
        with pytest.raises(CheckpointUnusable):
            work.take(3, {"vda": number})
    assert work.take(3, {"vda": None}) == {"vda": None}
    checkpoints.delete(work.domain, checkpoint(1))
    checkpoints.delete(work.domain, checkpoint(2))
    assert work.checkpoints() == [checkpoint(3)]
    assert machine.bitmaps("vda") == {checkpoint(3)}
    machine.write("vda", 1, 0, 64 * KIB)
    assert work.take(4, {"vda": 3}) == {"vda": [(0, 64 * KIB)]}
