"""Small packs, so that few bytes make many of them, and a cache folder of these tests' own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from puller.units import KIB
from tests.lab.simulated import InSomeOrder
from tests.upkeep.copies import Pair


@pytest.fixture(scope="module", autouse=True)
def small_packs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("puller.repository.writing.run.DATA_PACK", 300 * KIB)
        patch.setattr("puller.repository.writing.run.MAP_PACK", 300 * KIB)
        patch.setenv("PULLER_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module", autouse=True)
def in_some_order() -> Iterator[None]:
    """Make independent requests one after the other, always in the same order."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("puller.store.parallel.all_together", InSomeOrder().do_all)
        yield


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)
