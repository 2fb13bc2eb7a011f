"""``restored.xml`` starts the restored disks, also while the original runs on its own."""

from __future__ import annotations

import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import libvirt
import pytest

import puller
from puller.errors import OutputRefused
from puller.events import Event, Notice
from puller.hypervisor.domain.disks.disk import parse_disks
from puller.units import MIB
from tests.integration.conftest import SIZE, Scene
from tests.lab.machine import Machine


def restore(scene: Scene, output: Path, **options: object) -> str:
    """Restore the newest point; return what was told of ``restored.xml``."""
    told: list[str] = []

    def observe(event: Event) -> None:
        if isinstance(event, Notice):
            told.append(event.text)

    choices = {"output": str(output), "connect": scene.uri, "observer": observe, **options}
    puller.restore(scene.repository, f"{scene.machine.name}@latest", **choices)  # type: ignore[arg-type]
    return told[-1]


@pytest.mark.parametrize("format_", ["raw", "qcow2"])
def test_a_copy_beside_the_running_original(scene: Scene, tmp_path: Path, format_: str) -> None:
    output, name = tmp_path / "out", f"{scene.machine.name}-restored"
    said = restore(scene, output, format=format_)
    assert said == (
        "domain.xml starts the original's disks; to start the restored ones, run "
        f"'chmod a+x {output} && virsh define {output}/restored.xml'; "
        f"it defines {name}, as {scene.machine.name} exists here; "
        "without qemu:commandline, not restored or not to be shared with the original"
    )
    handle = scene.machine.handle.connect().defineXML((output / "restored.xml").read_text())
    with Machine(handle, scene.machine._root, output) as copy:
        assert (copy.name, copy.uuid != scene.machine.uuid) == (name, True)
        copy.start()
        (disk,) = parse_disks(copy.handle.XMLDesc())
        assert (disk.path, disk.format) == (output / f"vda.{format_}", format_)
        copy.write("vda", 9, 0, MIB)
        copy.stop()
    scene.backup()
    scene.assert_exact(puller.list_points(scene.repository)[-1])


def test_the_original_is_lost(scene: Scene, tmp_path: Path) -> None:
    machine = scene.machine
    definition = machine.handle.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    output = tmp_path / "out"
    output.mkdir(mode=0o711)
    machine.destroy()
    try:
        said = restore(scene, output, format="qcow2")
        assert said.endswith(f"to start the restored ones, run 'virsh define {output}/restored.xml'")
        text = (output / "restored.xml").read_text()
        root = ET.fromstring(text)
        assert (root.findtext("name"), root.findtext("uuid")) == (machine.name, machine.uuid)
        assert text.startswith(f"<!-- Domain {machine.name} on the disks of restore point ")
        machine.define(text)
        machine.start()
        shutil.rmtree(output)
        machine.stop()
    finally:
        machine.define(definition)


def test_a_restored_xml_that_exists_is_not_overwritten(scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "restored.xml").write_text("precious")
    with pytest.raises(OutputRefused, match=r"restored\.xml exists"):
        restore(scene, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["restored.xml"]
    restore(scene, tmp_path / "out", force=True, format="raw")
    assert (tmp_path / "out" / "vda.raw").stat().st_size == SIZE
