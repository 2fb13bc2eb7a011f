"""The wheel and the source distribution, built as ``python -m build`` builds them, hold what they must."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILD = "import sys, setuptools.build_meta as b; print(getattr(b, 'build_' + sys.argv[1])(sys.argv[2]))"


def _tracked(*patterns: str) -> set[str]:
    done = subprocess.run(
        ["git", "ls-files", *patterns], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return set(done.stdout.splitlines())


def _build(source: Path, what: str, target: Path) -> Path:
    words = [sys.executable, "-c", BUILD, what, str(target)]
    done = subprocess.run(words, cwd=source, check=True, capture_output=True, text=True)
    return target / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from what git tracks, as a clean clone has it."""
    folder = tmp_path_factory.mktemp("sdist")
    for name in _tracked():
        if (ROOT / name).is_file():
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / "source" / name)
    return _build(folder / "source", "sdist", folder)


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the source distribution, as pip does."""
    folder = tmp_path_factory.mktemp("wheel")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder)  # our own
    (source,) = folder.iterdir()
    return _build(source, "wheel", folder)


def test_the_source_distribution_installs_and_explains(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    needed = _tracked("puller", "systemd", "docs/*.md") | {"scripts/install", "scripts/man.py"}
    assert needed | {"LICENSE", "README.md", "CHANGELOG.md", "pyproject.toml"} <= names
    assert not [name for name in names if name.startswith(("tests/", "build/", ".venv/"))]


def test_the_wheel_has_every_module_and_unit(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (entry,) = [name for name in names if name.endswith("entry_points.txt")]
        assert "puller = puller.cli:main" in archive.read(entry).decode()
    assert {name for name in names if name.startswith("puller/")} == _tracked("puller")
    units = {name.rpartition("/")[2] for name in names if "/data/lib/systemd/system/" in name}
    assert units == {name.rpartition("/")[2] for name in _tracked("systemd/*.service", "systemd/*.timer")}
