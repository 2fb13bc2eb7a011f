"""The machine that the tests of ``doctor`` examine. Each planted fault is found, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import puller
from puller.units import MIB
from tests.diagnosis.doctor.ward import Ward
from tests.lab.machine import DiskSpec, EmbeddedLibvirt


@pytest.fixture(scope="module")
def ward(embedded_libvirt: EmbeddedLibvirt, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:
    folder = tmp_path_factory.mktemp("ward")
    repository = puller.create_repository(str(folder / "repository"))
    with embedded_libvirt.machine("ward", folder, [DiskSpec("vda", 8 * MIB)]) as machine:
        yield Ward(machine, repository, folder, embedded_libvirt.uri)


@pytest.fixture(autouse=True)
def nothing_else_is_wrong(ward: Ward) -> Iterator[None]:
    """Each test takes away what it has planted."""
    yield
    assert ward.found() == {}
