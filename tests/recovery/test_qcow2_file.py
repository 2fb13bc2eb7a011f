"""Where the bytes of a new qcow2 image go."""

from __future__ import annotations

import pytest

from puller.errors import NbdError
from puller.recovery.targets.qcow2_file import Places

PLACES = [(0, 100, 5000), (100, 50, 5200)]


def test_a_range_is_cut_where_places_end() -> None:
    assert list(Places(PLACES, 150).of(90, 30)) == [(0, 10, 5090), (10, 20, 5200)]


@pytest.mark.parametrize("places", [[], PLACES[1:], [(0, 90, 5000), (100, 50, 5200)], PLACES[:1]])
def test_a_layout_that_lacks_a_part_of_the_disk_is_refused(places: list[tuple[int, int, int]]) -> None:
    with pytest.raises(NbdError, match="no place for all of the disk"):
        Places(places, 150)
