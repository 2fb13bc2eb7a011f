"""Small limits for every test of the index."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.repository.index.world import shrink


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits so small that a few hundred contents meet every one of them."""
    monkeypatch.setenv("PULLER_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    shrink(monkeypatch)
