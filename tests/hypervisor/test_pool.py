"""Pools of kinds that the lab cannot have: logical volumes need a device mapper."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from puller.errors import HypervisorError
from puller.hypervisor.domain.disks.pool import Pool


class _Libvirt:
    """What a pool asks libvirt: the connection and the pool in one."""

    def __init__(self, kind: str, path: str) -> None:
        self._xml = f"<pool type='{kind}'><name>p</name><target><path>{path}</path></target></pool>"
        self.made: list[ET.Element] = []

    def storagePoolLookupByName(self, name: str) -> _Libvirt:  # noqa: N802 - libvirt's name
        assert name == "p"
        return self

    def XMLDesc(self) -> str:  # noqa: N802 - libvirt's name
        return self._xml

    def createXML(self, xml: str) -> None:  # noqa: N802 - libvirt's name
        self.made.append(ET.fromstring(xml))


def test_a_logical_volume_has_no_format_and_lies_below_its_group() -> None:
    connection = _Libvirt("logical", "/dev/vg")
    pool = Pool(connection, "p")
    assert (pool.holds_files, pool.directory) == (False, Path("/dev/vg"))
    pool.make("web1-vda", 4096, "raw")
    (volume,) = connection.made
    assert (volume.findtext("name"), volume.findtext("capacity")) == ("web1-vda", "4096")
    assert volume.find("target") is None


def test_a_file_is_made_thin_and_in_its_format() -> None:
    connection = _Libvirt("dir", "/srv/images")
    pool = Pool(connection, "p")
    assert pool.holds_files
    pool.make("web1-vda.qcow2", 4096, "qcow2")
    (volume,) = connection.made
    assert volume.findtext("allocation") == "0"
    assert volume.find("./target/format[@type='qcow2']") is not None


@pytest.mark.parametrize("kind", ["rbd", "iscsi", "zfs"])
def test_other_kinds_are_refused_with_the_way_out(kind: str) -> None:
    with pytest.raises(HypervisorError, match=f"is of type {kind}") as refused:
        Pool(_Libvirt(kind, "/"), "p")
    assert "--map-disk" in refused.value.advice
