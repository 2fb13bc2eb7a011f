"""Doctor on hosts that lack what serving a point needs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from puller.diagnosis import serving
from puller.diagnosis.finding import Status


def _fake(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / "nbdkit"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_this_host_can_serve() -> None:
    (found,) = serving.examine()
    assert (found.name, found.status) == ("nbdkit", Status.OK)
    assert f"Python {sys.version_info[0]}.{sys.version_info[1]}" in found.text


def test_a_missing_nbdkit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = serving.nbdkit()
    assert found.status is Status.WARN
    assert "nbdkit-plugin-python" in found.advice


def test_an_nbdkit_without_the_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fake(tmp_path, "echo nbdkit-python-plugin.so: cannot open >&2; exit 1", monkeypatch)
    found = serving.nbdkit()
    assert (found.status, "no Python plugin" in found.text) == (Status.WARN, True)


def test_a_plugin_for_another_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fake(tmp_path, "echo python_version=3.7.2", monkeypatch)
    found = serving.nbdkit()
    assert found.status is Status.WARN
    assert "runs Python 3.7, but puller runs" in found.text
