"""A window of a disk: gaps and what is filled."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from puller.repository.reading.image import PackJob, Window
from puller.units import CHUNK


@given(st.sets(st.integers(3, 12)), st.integers(1, CHUNK), st.integers(1, 3))
def test_gaps_and_what_is_filled_make_up_the_window(chunks: set[int], last: int, packs: int) -> None:
    end = 12 * CHUNK + last
    ordered = sorted(chunks)
    jobs = tuple(
        PackJob(
            bytes([pack]),
            np.array(ordered[pack::packs], np.int64),
            np.arange(len(ordered[pack::packs]), dtype=np.uint16),
        )
        for pack in range(packs)
    )
    window = Window(3 * CHUNK, end, jobs, ())
    ranges = sorted([*window.gaps(), *window.filled()])
    assert [offset for offset, _ in ranges] + [end] == [3 * CHUNK] + [
        offset + length for offset, length in ranges
    ]
    filled = {
        at // CHUNK for offset, length in window.filled() for at in range(offset, offset + length, CHUNK)
    }
    assert filled == chunks
