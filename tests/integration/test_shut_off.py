"""Domains that are shut off: what their images cannot tell, and what earlier runs left beside them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

import puller
from puller.errors import DomainNotRunning
from puller.hypervisor.frozen import DiskExport
from puller.units import KIB, MIB
from tests.integration.conftest import Scene, Truth
from tests.lab.fixtures import MachineFactory
from tests.lab.machine import DiskSpec


@pytest.fixture
def raw(machine_factory: MachineFactory, libvirt_uri: str, tmp_path: Path, truth: Truth) -> Scene:
    return Scene(machine_factory(DiskSpec("vda", 8 * MIB, "raw")), libvirt_uri, tmp_path, truth)


def test_a_domain_that_ran_while_its_block_device_was_read(raw: Scene) -> None:
    """A file whose time stands still, as that of a device node does that another one is written by."""
    machine, image = raw.machine, raw.machine.image("vda")
    machine.stop()

    def run(_exports: Sequence[DiskExport]) -> None:
        before = image.stat()
        machine.start()
        machine.write("vda", 2, MIB, 64 * KIB)
        machine.stop()
        os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))

    raw.truth = run
    with pytest.raises(DomainNotRunning, match="was started while its images were read"):
        raw.backup()
    assert puller.list_points(raw.repository) == []
