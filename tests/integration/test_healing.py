"""Damage that a check has found heals with the next backup, by a process that has seen nothing of it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

import puller
from puller.backups.bases.probe import Probe
from puller.errors import DamagedData
from puller.events import Event, Notice, Step
from puller.repository.points import object_name
from puller.units import CHUNK, MIB
from tests.integration.conftest import Truth, checkpoints, restored
from tests.lab.fixtures import MachineFactory
from tests.lab.machine import DiskSpec


def _spoil(repository: puller.Repository) -> None:
    """Flip a bit of the first chunk of the largest data pack."""
    name = max((info.size, info.key) for info in repository.store.list("packs/"))[1]
    body = bytearray(repository.store.get(name))
    body[CHUNK // 2] ^= 1
    repository.store.put(name, body)


@pytest.mark.parametrize(("url", "way"), [("s3", "pull"), ("folder", "push")], indirect=["url"])
def test_what_the_live_disk_still_has_is_stored_anew(
    url: str,
    way: puller.Mode,
    machine_factory: MachineFactory,
    libvirt_uri: str,
    truth: Truth,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine = machine_factory(DiskSpec("vda", 80 * MIB))
    noise = tmp_path / "noise"
    noise.write_bytes(random.Random(1).randbytes(CHUNK))
    machine.copy_in("vda", noise, 0, CHUNK)
    machine.write("vda", 1, 70 * MIB, 2 * MIB)
    first = puller.backup(
        puller.create_repository(url), machine.name, connect=libvirt_uri, mode=way, on_frozen=truth
    )
    _spoil(puller.open_repository(url))
    (error,) = puller.check(puller.open_repository(url), read_data=100).errors
    assert (error.point, error.disk) == (first.point, "vda")

    monkeypatch.setenv("PULLER_CACHE_DIR", str(tmp_path / "another host"))
    machine.write("vda", 2, 75 * MIB, CHUNK)  # far from what is lost
    told: list[Event] = []
    second = puller.backup(
        puller.open_repository(url),
        machine.name,
        connect=libvirt_uri,
        mode=way,
        on_frozen=truth,
        observer=told.append,
    )
    assert second.kind == "rehash"
    assert any(isinstance(event, Notice) and "damaged" in event.text for event in told)
    machine.write("vda", 3, 0, CHUNK)
    machine.flush()  # a push looks at the image beside QEMU
    third = puller.backup(
        puller.open_repository(url),
        machine.name,
        connect=libvirt_uri,
        mode=way,
        on_frozen=truth if way == "pull" else truth.of(machine),
    )
    assert third.kind == "incremental", "the next one is as cheap as ever"
    again = puller.open_repository(url)
    for generation, point in ((2, second), (3, third)):
        assert truth.equals(restored(again, point, tmp_path), "vda", generation)
    assert {error.point for error in puller.check(again, read_data=100).errors} == {first.point}


def test_a_damaged_parent_is_told_apart_from_other_damage(
    tmp_path: Path, machine_factory: MachineFactory, libvirt_uri: str
) -> None:
    machine = machine_factory(DiskSpec("vda", 20 * MIB))
    machine.write("vda", 1, 0, MIB)
    url = str(tmp_path / "repository")
    repository = puller.create_repository(url)
    first = puller.backup(repository, machine.name, connect=libvirt_uri)
    told: list[Event] = []
    strange = f"condemned/{'0' * 32}"
    repository.store.put(strange, b"nobody can tell what this condemns")
    with pytest.raises(DamagedData, match=strange):
        puller.backup(repository, machine.name, connect=libvirt_uri, observer=told.append)
    assert not [event for event in told if isinstance(event, Notice)], "reading all would not help"
    repository.store.delete([strange])

    def spoil_the_record(event: Event) -> None:
        told.append(event)
        if isinstance(event, Step) and event.name == "commit":
            repository.store.put(object_name(first.uuid, first.point), b"spoilt")

    point = puller.backup(repository, machine.name, connect=libvirt_uri, observer=spoil_the_record)
    assert point.kind == "full", "nothing can be told of the only point"
    assert any(isinstance(event, Notice) and "last point is damaged" in event.text for event in told)


def test_a_page_of_the_last_map_that_is_found_lost_in_mid_run(
    machine_factory: MachineFactory,
    libvirt_uri: str,
    tmp_path: Path,
    truth: Truth,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A thread of the run reads it, after the probe looked at other pages only; the run begins anew."""
    monkeypatch.setattr(Probe, "places", lambda *_: iter(()))
    machine = machine_factory(DiskSpec("vda", 512 * MIB))
    for page in range(8):
        machine.write("vda", page + 1, page * 64 * MIB, MIB)
    url = str(tmp_path / "repository")
    repository = puller.create_repository(url)
    puller.backup(repository, machine.name, connect=libvirt_uri)
    lost = [info.key for info in repository.store.list("maps/")]
    for page in (1, 3, 5, 7):  # where the bitmap is compared
        machine.write("vda", 9, page * 64 * MIB, CHUNK)
    second = puller.backup(repository, machine.name, connect=libvirt_uri)
    repository.store.delete(lost)
    machine.write("vda", 8, 0, CHUNK)
    told: list[Event] = []
    point = puller.backup(
        puller.open_repository(url),
        machine.name,
        connect=libvirt_uri,
        on_frozen=truth,
        observer=told.append,
    )
    notices = [event.text for event in told if isinstance(event, Notice)]
    assert point.kind == "rehash"
    assert any("the run starts again and reads all data of the disks" in text for text in notices)
    assert len(checkpoints(machine)) == 1
    assert second.checkpoint not in checkpoints(machine)
    assert truth.equals(restored(repository, point, tmp_path), "vda", 2)  # 1 is of the try that failed
