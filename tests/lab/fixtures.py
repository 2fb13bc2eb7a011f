"""Fixtures for tests on real libvirt and QEMU. A conftest takes them by ``pytest_plugins``."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import pytest

from tests.lab.machine import DiskSpec, EmbeddedLibvirt, Machine

MachineFactory = Callable[..., Machine]
"""``factory(DiskSpec(...), ...)`` makes a machine with these disks, standing still, until the test ends."""

_numbers = count(1)


@pytest.fixture(scope="session")
def embedded_libvirt() -> Iterator[EmbeddedLibvirt]:
    """The one embedded libvirt of this process. Its root is short: sockets lie in it."""
    root = Path(tempfile.mkdtemp(prefix="puller-"))
    embedded = EmbeddedLibvirt(root)
    yield embedded
    embedded.close()
    shutil.rmtree(root)


@pytest.fixture(scope="session")
def libvirt_uri(embedded_libvirt: EmbeddedLibvirt) -> str:
    """The URI that reaches the machines of this process's tests."""
    return embedded_libvirt.uri


@pytest.fixture
def machine_factory(embedded_libvirt: EmbeddedLibvirt, tmp_path: Path) -> Iterator[MachineFactory]:
    """Makes machines whose images are in ``tmp_path``."""
    with ExitStack() as stack:

        def make(*disks: DiskSpec) -> Machine:
            return stack.enter_context(embedded_libvirt.machine(f"vm{next(_numbers)}", tmp_path, disks))

        yield make


@pytest.fixture
def small_file_system(tmp_path: Path) -> Iterator[Path]:
    """A folder that holds 32 MiB, in memory. Only root may mount, so for others the test is skipped."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounting = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=32M", "tmpfs", str(folder)], check=False, capture_output=True
    )
    if mounting.returncode:
        pytest.skip("cannot mount a file system here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
