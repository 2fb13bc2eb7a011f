"""A fleet lives through some days: each point restores, and the report says what happened.

``scripts/soak-quarter`` plays a quarter of a year with 20 machines.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fleet.fleet import live
from tests.fleet.hosts import SHORT
from tests.fleet.planted import PLANTED, Plant


@pytest.mark.parametrize("seed", range(1, 6))
def test_a_fleet(tmp_path: Path, seed: int) -> None:
    fleet = live(SHORT, tmp_path / "hosts", seed)
    assert fleet.found == []
    assert fleet.counts["restored from main"] > SHORT.domains
    assert fleet.counts["restored from offsite"] > SHORT.domains
    assert fleet.counts["reports"]


@pytest.mark.parametrize("plant", PLANTED.values(), ids=PLANTED.keys())
def test_a_planted_fault_is_found(plant: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    assert any(live(SHORT, tmp_path / "hosts", seed).found for seed in range(1, 9))
