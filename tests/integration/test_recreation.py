"""A restore that defines the domain: as itself where it is gone, as a copy beside it where it is not."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import libvirt
import pytest

import puller
from puller.errors import DomainExists, OutputInUse, UsageError
from puller.events import DiskPlanned, Event
from puller.hypervisor.domain.disks.disk import parse_disks
from puller.nbd.image import ImageServer
from puller.units import MIB
from tests.integration.conftest import Scene
from tests.integration.disaster_scene import OVMF
from tests.lab.machine import Machine


def recreate(scene: Scene, **options: Any) -> puller.Recreated:
    return puller.recreate(scene.repository, f"{scene.machine.name}@latest", connect=scene.uri, **options)


@contextmanager
def machine(scene: Scene, made: puller.Recreated, output: Path) -> Iterator[Machine]:
    """The domain that was defined; taken away at the end."""
    handle = scene.machine.handle.connect().lookupByUUIDString(made.uuid)
    with Machine(handle, scene.machine._root, output) as found:
        yield found


def test_a_copy_starts_beside_its_original_which_is_untouched(scene: Scene, tmp_path: Path) -> None:
    output, before = tmp_path / "out", scene.machine.handle.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    made = recreate(scene, output=str(output), name="copy")
    assert (made.name, made.uuid != scene.machine.uuid) == ("copy", True)
    with machine(scene, made, output) as copy:
        copy.start()
        (disk,) = parse_disks(copy.handle.XMLDesc())
        assert (disk.path, disk.format) == (output / "vda.qcow2", "qcow2")
        assert ET.fromstring(copy.handle.XMLDesc()).findtext("uuid") == made.uuid
        copy.write("vda", 9, 0, MIB)
        copy.stop()
    assert scene.machine.handle.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE) == before
    scene.backup()
    scene.assert_exact(puller.list_points(scene.repository)[-1])


def test_a_domain_that_is_gone_is_defined_as_itself(scene: Scene, tmp_path: Path) -> None:
    original, output = scene.machine, tmp_path / "out"
    definition = original.handle.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    original.destroy()
    try:
        made = recreate(scene, output=str(output), format="raw", start=True)
        assert (made.name, made.uuid) == (original.name, original.uuid)
        with machine(scene, made, output) as itself:
            assert itself.handle.isActive()
            assert [disk.path for disk in parse_disks(itself.handle.XMLDesc())] == [output / "vda.raw"]
    finally:
        original.define(definition)


def test_a_domain_that_exists_is_refused_before_anything_is_written(scene: Scene, tmp_path: Path) -> None:
    for options in ({}, {"name": scene.machine.name}):
        with pytest.raises(DomainExists, match=f"domain {scene.machine.name} exists"):
            recreate(scene, output=str(tmp_path / "out"), **options)
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="no place"):
        recreate(scene, name="copy")


@pytest.mark.parametrize("name", ["", " ", "a/b", "a\nb"])
def test_a_name_that_no_domain_can_have_is_refused_before_anything_is_written(
    scene: Scene, tmp_path: Path, name: str
) -> None:
    with pytest.raises(UsageError, match="cannot be the name of a domain"):
        recreate(scene, output=str(tmp_path / "out"), name=name)
    assert not (tmp_path / "out").exists()


def test_a_dry_run_defines_nothing_and_tells_the_xml(scene: Scene, tmp_path: Path) -> None:
    made = recreate(scene, output=str(tmp_path / "out"), name="copy", dry_run=True)
    root = ET.fromstring(made.xml)
    assert (root.findtext("name"), root.findtext("uuid")) == ("copy", made.uuid)
    assert made.restored is None
    assert not (tmp_path / "out").exists()
    names = [domain.name() for domain in scene.machine.handle.connect().listAllDomains()]
    assert "copy" not in names


def test_disks_go_where_they_are_mapped(scene: Scene, tmp_path: Path) -> None:
    place = tmp_path / "elsewhere" / "root.img"
    made = recreate(scene, name="copy", places={"vda": str(place)})
    with machine(scene, made, tmp_path) as copy:
        (disk,) = parse_disks(copy.handle.XMLDesc())
        assert (disk.path, disk.format) == (place, "raw")
        copy.start()


def test_a_domain_that_was_made_during_the_restore_keeps_its_definition(scene: Scene, tmp_path: Path) -> None:
    original = scene.machine
    definition = original.handle.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    original.destroy()

    def observe(event: Event) -> None:
        if isinstance(event, DiskPlanned):
            original.define(definition)

    with pytest.raises(DomainExists, match="was made during the restore") as refused:
        recreate(scene, output=str(tmp_path / "out"), observer=observe)
    assert "The disks are restored" in refused.value.advice
    assert original.handle.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE) == definition


@pytest.mark.skipif(not OVMF.exists(), reason="the package ovmf is not installed")
def test_firmware_variables_that_are_in_use_are_refused_whatever_force_says(
    scene: Scene, tmp_path: Path
) -> None:
    """A running domain has the file that the copy's variables would go to: it was renamed, for example."""
    scene.machine.stop()
    (tmp_path / "web1_VARS.fd").write_bytes(b"old" * 1000)

    def edit(root: ET.Element) -> None:
        system = root.find("./os")
        assert system is not None
        ET.SubElement(ET.SubElement(root, "features"), "acpi")
        ET.SubElement(system, "loader", readonly="yes", type="pflash").text = str(OVMF / "OVMF_CODE_4M.fd")
        ET.SubElement(system, "nvram").text = str(tmp_path / "web1_VARS.fd")

    scene.redefine(edit)
    point = scene.backup()
    assert "nvram.fd" in {item.name for item in point.attachments}
    taken = tmp_path / "copy_VARS.fd"
    taken.write_bytes(b"another's" * 1000)
    with ImageServer(taken, "raw"), pytest.raises(OutputInUse, match=f"cannot restore to {taken}: process"):
        recreate(scene, output=str(tmp_path / "out"), name="copy", force=True)
    assert taken.read_bytes() == b"another's" * 1000
    assert not (tmp_path / "out").exists()
