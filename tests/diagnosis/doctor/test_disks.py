"""``doctor`` on real libvirt: faults of disks and images are found, and nothing else is."""

from __future__ import annotations

import os
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest

import puller
from puller.units import MIB
from tests.diagnosis.doctor.ward import Found, Ward, element_at, shut_off, source


@pytest.mark.parametrize(
    ("edit", "more"),
    [
        # The machine runs on the image, of which no lock would tell a reader of raw.
        (
            lambda disk: disk.find("driver").set("type", "raw"),
            {"disk-format": "warn", "other-writers": "fail"},
        ),
        (lambda disk: disk.append(ET.Element("transient")), {"disk-left-out": "warn"}),
    ],
    ids=["raw", "transient"],
)
def test_a_disk_that_can_have_no_checkpoint_or_no_backup(
    ward: Ward, edit: Callable[[ET.Element], None], more: Found
) -> None:
    with ward.defined("odd", lambda root: edit(element_at(root, "./devices/disk"))):
        assert ward.found("odd") == shut_off("odd", more)


def test_a_network_disk(ward: Ward) -> None:
    def far(root: ET.Element) -> None:
        disk = element_at(root, "./devices/disk")
        disk.set("type", "network")
        element_at(disk, "driver").set("type", "raw")
        disk.remove(element_at(disk, "source"))
        place = ET.SubElement(disk, "source", protocol="nbd", name="far")
        ET.SubElement(place, "host", name="127.0.0.1", port="9")

    def encrypted(root: ET.Element) -> None:
        far(root)
        element_at(root, "./devices/disk/source").set("tls", "yes")

    with ward.defined("far", far):
        assert ward.found("far") == shut_off("far", {"disk-format": "warn"})
    with ward.defined("far", encrypted):
        assert ward.found("far") == shut_off("far", {"disk-format": "fail"})


def test_doctor_and_backup_agree_on_a_domain_that_is_shut_off(ward: Ward) -> None:
    with ward.defined("agreed", source(ward.image("agreed.img"))):
        assert puller.backup(ward.repository, "agreed", connect=ward.uri).consistency == "offline"
        assert ward.found("agreed") == {}


def test_an_image_of_the_old_version(ward: Ward) -> None:
    with ward.defined("old", source(ward.image("old.img", "-o", "compat=0.10"))):
        assert ward.found("old") == shut_off("old", {"disk-format": "warn"})


def test_an_image_that_qemu_has_marked_as_corrupt(ward: Ward) -> None:
    image = ward.image("corrupt.img")
    with image.open("r+b") as file:
        file.seek(79)
        file.write(b"\x02")
    with ward.defined("corrupt", source(image)):
        assert ward.found("corrupt") == shut_off("corrupt", {"disk-image": "fail"})


def test_an_image_that_is_not_what_the_domain_says(ward: Ward) -> None:
    image = ward.folder / "other.img"
    image.write_bytes(bytes(MIB))
    with ward.defined("other", source(image)):
        found = ward.found("other")
    assert found["disk-image other/vda"] == "fail"


def test_an_image_whose_storage_hangs_is_looked_into_once(
    ward: Ward, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, calls, tool = ward.image("hung.img"), tmp_path / "calls", tmp_path / "qemu-img"
    tool.write_text(f"#!/bin/sh\necho called >> {calls}\nexec sleep 60\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr("puller.hypervisor.domain.disks.image._INFO_SECONDS", 0.5)
    with ward.defined("hung", source(image)):
        found = ward.found("hung")
    assert found["disk-image hung/vda"] == "fail"
    assert calls.read_text() == "called\n"
