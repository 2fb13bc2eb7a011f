"""Random histories: what is committed restores, what is live stays, what is garbage goes.

``scripts/soak`` plays many more of them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings

from tests.upkeep.histories import HISTORIES, found_by, quick
from tests.upkeep.planted import PLANTED, Plant
from tests.upkeep.simulation import Step, play


def test_histories(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("hosts") / "caches"

    @settings(quick(300), derandomize=True)
    @given(HISTORIES)
    def each(history: list[Step]) -> None:
        play(history, folder)

    each()


@pytest.mark.parametrize("plant", PLANTED.values(), ids=PLANTED.keys())
def test_a_planted_bug_is_found(
    plant: Plant,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    plant(monkeypatch)
    batch = found_by(tmp_path / "caches", range(1, 31), 100)
    assert batch is not None
    record_property("found by", f"seed {batch.seed}, history {batch.played}")
