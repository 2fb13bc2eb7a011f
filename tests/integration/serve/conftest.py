"""An archive that nobody changes, and a copy of it that a test may change."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import puller
from tests.integration.serve.archive import PASSWORD, Archive, make_archive


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """Nobody may change it."""
    return make_archive(str(tmp_path_factory.mktemp("archive") / "repository"))


@pytest.fixture
def own_archive(archive: Archive, tmp_path: Path) -> Archive:
    """A copy that the test may damage."""
    shutil.copytree(archive.url, tmp_path / "repository")
    url = str(tmp_path / "repository")
    return Archive(url, puller.open_repository(url, password=PASSWORD), archive.point)
