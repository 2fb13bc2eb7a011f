"""Fixtures for backups of a QEMU without libvirt."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

import puller
from tests.integration.conftest import Truth
from tests.lab.machine import DiskSpec
from tests.lab.qemu import BareMachine

BareFactory = Callable[..., BareMachine]

_numbers = count(1)


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A short path, unlike pytest's own: sockets are made in it, whose paths have at most 107 bytes."""
    with TemporaryDirectory(prefix="bare-") as folder:
        yield Path(folder)


@pytest.fixture
def bare_factory(tmp_path: Path) -> Iterator[BareFactory]:
    """Makes machines whose images and sockets are in ``tmp_path``."""
    with ExitStack() as stack:

        def make(*disks: DiskSpec, options: tuple[str, ...] = (), port: int | None = None) -> BareMachine:
            name = f"bare{next(_numbers)}"
            return stack.enter_context(BareMachine(name, tmp_path, disks, *options, port=port))

        yield make


@pytest.fixture
def truth(tmp_path: Path) -> Truth:
    return Truth(tmp_path)


@pytest.fixture
def repository(tmp_path: Path) -> puller.Repository:
    return puller.create_repository(str(tmp_path / "repository"), password=None)
