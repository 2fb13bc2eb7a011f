"""Whatever holds guest data on the host is its owner's alone, while it is written and afterwards."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import puller
from puller.events import DiskPlanned, DiskProgress, Event
from puller.units import CHUNK, MIB
from tests.integration.conftest import Scene
from tests.lab.archive import make_point


@pytest.fixture(autouse=True)
def an_open_umask() -> Iterator[None]:
    """The loosest that a login can have: modes must not rest on it."""
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def modes(folder: Path) -> set[int]:
    """Of all files below ``folder``."""
    return {mode(path) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("format_", ["raw", "qcow2"])
def test_a_restore_is_its_owners_alone_from_the_first_byte(
    tmp_path: Path, format_: puller.ImageFormat
) -> None:
    repository = puller.create_repository(str(tmp_path / "repository"), password="x")
    make_point(repository, {"vda": os.urandom(MIB), "vdb": os.urandom(CHUNK)})
    output, seen = tmp_path / "new" / "folder", set[int]()
    lock = threading.Lock()

    def look(event: Event) -> None:
        if isinstance(event, DiskPlanned | DiskProgress):
            with lock:
                seen.update(modes(output))

    puller.restore(repository, "web1@latest", output=str(output), format=format_, observer=look)
    assert seen == {0o600}
    assert modes(output) == {0o600}
    assert {mode(output), mode(output.parent)} == {0o700}
    assert {path.name for path in output.iterdir()} >= {f"vda.{format_}", "domain.xml"}


def test_a_folder_that_exists_keeps_its_mode(tmp_path: Path) -> None:
    repository = puller.create_repository(str(tmp_path / "repository"), password="x")
    make_point(repository, {"vda": os.urandom(CHUNK)})
    output = tmp_path / "out"
    output.mkdir(mode=0o755)
    puller.restore(repository, "web1@latest", output=str(output))
    assert (mode(output), modes(output)) == (0o755, {0o600})


def test_scratch_staging_and_sockets(scene: Scene, tmp_path: Path) -> None:
    staging = tmp_path / "staging"
    staging.mkdir()
    found: dict[str, int] = {}

    def look(_: object) -> None:
        for pattern in ("*.scratch", "staging/*.staging"):
            found.update({path.suffix: mode(path) & 0o077 for path in tmp_path.glob(pattern)})

    for how in ("pull", "push"):
        puller.backup(
            scene.repository,
            scene.machine.name,
            connect=scene.uri,
            mode=how,
            staging_dir=str(staging),
            keep_staging=True,
            on_frozen=look,
        )
    assert found == {".scratch": 0, ".staging": 0}
    assert modes(staging) == {0o600}
