"""A rollback that stopped halfway: its mark, and the commands that complete it."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

import puller
from puller.cancelling import CancelScope
from puller.errors import DomainRunning, NbdError, OutputFailed, RollbackUnfinished
from puller.hypervisor.storage import rollback_mark
from puller.hypervisor.storage.rollback_mark import RollbackMark, find_mark, mark_path, put_mark
from puller.recovery import change_search, disk_rollback
from puller.recovery.diskcopy import ChangedCopier, copy_all
from puller.units import MIB
from tests.integration.conftest import SIZE, Scene, Truth, io, loop_device
from tests.integration.in_place.rolling import (
    assert_next_is_incremental,
    compare,
    first_of,
    is_at,
    put_on,
    resize,
    roll,
    scribble,
    two_disks,
)
from tests.lab.daemon import in_own_namespace, is_root
from tests.lab.fixtures import MachineFactory


def test_a_rollback_that_stopped_after_the_resize_is_completed(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sizes then agree again, and only the mark shows how far the bitmap is complete."""
    monkeypatch.setattr(change_search, "find_mismatch", lambda *_, **__: None)
    first, image = first_of(scene), scene.machine.image("vda")
    scene.machine.stop()
    resize(scene, 4 * MIB)
    put_mark(image, RollbackMark(first.point, "vda", 4 * MIB))
    resize(scene, SIZE)
    roll(scene, first)
    assert is_at(scene, first)


def test_a_backup_refuses_what_is_half_rolled_back(scene: Scene) -> None:
    first, image = first_of(scene), scene.machine.image("vda")
    put_mark(image, RollbackMark(first.point, "vda", SIZE))
    with pytest.raises(RollbackUnfinished, match="partly old and partly new") as refused:
        scene.backup()
    assert f"puller restore {first.point} --in-place" in refused.value.advice
    mark_path(image).write_bytes(b"{")  # cut short by a power failure
    with pytest.raises(RollbackUnfinished, match="to an unknown point was not completed") as refused:
        scene.backup()
    assert "'puller restore POINT --in-place'" in refused.value.advice
    scene.machine.stop()
    roll(scene, first)
    assert is_at(scene, first)
    assert not mark_path(image).exists()
    scene.taken -= 2
    assert_next_is_incremental(scene)


@pytest.mark.skipif(not is_root(), reason="a private libvirtd needs root")
def test_a_killed_rollback_is_completed_by_the_same_command() -> None:
    with tempfile.TemporaryDirectory(prefix="puller-rollback-") as folder:
        command = in_own_namespace("tests.integration.rollback_scenes", [folder, "5", "1"])
        played = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    outcomes = json.loads(played.stdout)
    assert (played.returncode, len(outcomes)) == (0, 5), outcomes
    assert all(outcome["killed"] or not outcome["mark"] for outcome in outcomes)
    assert any(outcome["mark"] for outcome in outcomes), "none was killed in its midst"


def test_a_failure_at_the_second_disk_leaves_both_marked(
    machine_factory: MachineFactory,
    libvirt_uri: str,
    tmp_path: Path,
    truth: Truth,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first disk then equals the point and the second does not: a backup would mix two states."""
    scene = two_disks(machine_factory, libvirt_uri, tmp_path, truth)
    first = first_of(scene)
    for target in ("vda", "vdb"):
        scene.machine.write(target, 9, 0, MIB)
    scene.machine.flush()
    scene.machine.stop()
    images = {target: scene.machine.image(target) for target in ("vda", "vdb")}

    class Failing(ChangedCopier):
        def begin(self, scope: CancelScope) -> None:
            if self._disk == "vdb":
                raise NbdError("the storage failed")
            super().begin(scope)

    with monkeypatch.context() as patch:
        patch.setattr(disk_rollback, "ChangedCopier", Failing)
        with pytest.raises(puller.PullerError, match="the storage failed"):
            roll(scene, first)
    assert [compare(scene, images[target], "qcow2", first, target) for target in images] == [True, False]
    assert all(find_mark(image) for image in images.values())
    with pytest.raises(RollbackUnfinished):
        scene.backup()
    roll(scene, first)
    assert [compare(scene, images[target], "qcow2", first, target) for target in images] == [True, True]
    assert not any(find_mark(image) for image in images.values())


def test_the_same_command_completes_what_a_backup_would_refuse(scene: Scene) -> None:
    first, image = first_of(scene), scene.machine.image("vda")
    scribble(scene)
    scene.machine.stop()
    put_mark(image, RollbackMark(first.point, "vda", SIZE))
    roll(scene, first, backup_first=True)
    assert any(text.startswith("no point of the present state is taken: ") for text in scene.told)
    assert is_at(scene, first)
    assert len(puller.list_points(scene.repository)) == 1


def test_a_rollback_to_another_point_completes_the_first_one(scene: Scene) -> None:
    first = first_of(scene)
    scribble(scene, 1)
    second = scene.backup()
    scribble(scene, 2)
    scene.machine.stop()
    put_mark(scene.machine.image("vda"), RollbackMark(first.point, "vda", 2 * MIB))
    roll(scene, second)
    assert is_at(scene, second)
    assert_next_is_incremental(scene)


def test_the_mark_is_found_by_any_name_and_goes_with_a_restore_over_the_image(scene: Scene) -> None:
    first, image = first_of(scene), scene.machine.image("vda")
    link = scene.folder / "link.qcow2"
    link.symlink_to(image)
    put_mark(link, RollbackMark(first.point, "vda", SIZE))
    assert find_mark(image) == find_mark(link) == RollbackMark(first.point, "vda", SIZE)
    scene.machine.stop()
    puller.restore(
        scene.repository, first.point, output=str(image), disks=["vda"], format="qcow2", force=True
    )
    assert find_mark(image) is None
    scene.machine.start()
    scene.backup()


def test_a_guest_that_was_started_on_a_device_meanwhile_leaves_the_mark(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No lock keeps it away from a device where libvirt gives QEMU a node of its own, as in a namespace."""
    first, plain, node = first_of(scene), scene.folder / "plain.img", scene.folder / "node"
    scene.machine.stop()
    subprocess.run(["qemu-img", "convert", "-O", "raw", scene.machine.image("vda"), plain], check=True)
    io(plain, "raw", "write -P 9 1M 256k")

    def make_node(device: str) -> None:
        node.unlink(missing_ok=True)
        os.mknod(node, 0o600 | stat.S_IFBLK, Path(device).stat().st_rdev)

    with loop_device(plain) as device:
        make_node(device)
        put_on(scene, node, "block", "raw")

        def started(*given: Any) -> None:
            make_node(device)
            scene.machine.start()
            copy_all(*given)

        with monkeypatch.context() as patch:
            patch.setattr(disk_rollback, "copy_all", started)
            with pytest.raises(DomainRunning, match="was started while its disks were rolled back"):
                roll(scene, first)
        scene.machine.stop()
        assert find_mark(node) is not None
        roll(scene, first)
        assert compare(scene, node, "raw", first)
        assert find_mark(node) is None


def test_an_image_whose_storage_is_full_is_completed_when_there_is_room(scene: Scene) -> None:
    first, small = first_of(scene), scene.folder / "small"
    scene.machine.stop()
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12M", "none", small], check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        image = small / "disk.qcow2"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, str(SIZE)], check=True)
        put_on(scene, image)
        with pytest.raises(OutputFailed, match="No space left") as full:
            roll(scene, first)
        assert "run the same command again" in full.value.advice
        assert find_mark(image) is not None
        subprocess.run(["mount", "-o", "remount,size=30M", small], check=True)
        roll(scene, first)
        assert compare(scene, image, "qcow2", first)
        assert [path.name for path in small.iterdir()] == ["disk.qcow2"]
    finally:
        subprocess.run(["umount", "--lazy", small], check=True)


def test_the_mark_of_a_device_is_found_by_any_name(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Volumes have two names at least: ``/dev/vg/x`` and ``/dev/mapper/vg-x``."""
    monkeypatch.setattr(rollback_mark, "DEVICE_MARKS", tmp_path / "state" / "marks")
    plain, name = tmp_path / "plain.img", tmp_path / "vg-x"
    plain.write_bytes(bytes(SIZE))
    mark = RollbackMark("p", "vda", 5)
    with loop_device(plain) as device:
        name.symlink_to(device)
        assert (find_mark(name), find_mark(Path(device))) == (None, None)
        put_mark(name, mark)
        assert (find_mark(name), find_mark(Path(device))) == (mark, mark)
        point = first_of(scene).point
        puller.restore(scene.repository, point, places={"vda": device}, force=True, connect=scene.uri)
        assert find_mark(name) is None
        assert list((tmp_path / "state" / "marks").iterdir()) == []
