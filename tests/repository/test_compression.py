"""zstd frames, one at a time and many in a call."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puller.errors import DamagedData
from puller.repository.format import compression
from puller.repository.format.compression import FAST, frame, frames, unframe
from puller.units import CHUNK

CONTENTS = st.lists(st.binary(max_size=3000), max_size=5)


@given(CONTENTS, st.sampled_from([FAST, 1, 3, 10]))
def test_many_frames_are_the_same_as_single_ones(contents: list[bytes], level: int) -> None:
    assert [bytes(one) for one in frames(contents, level)] == [frame(one, level) for one in contents]


def test_many_chunks_of_all_kinds_come_back_in_order() -> None:
    noise = random.Random(7)
    chunks = [noise.randbytes(CHUNK) if number % 3 else bytes([number]) * CHUNK for number in range(32)]
    views = [memoryview(bytearray(chunk)) for chunk in chunks]
    assert [unframe(bytes(one), CHUNK) for one in frames(views, 1)] == chunks


def test_fast_is_another_frame_than_level_1_and_as_readable() -> None:
    content = b"".join(f"{number} of many lines that are alike\n".encode() for number in range(2000))
    fast = frame(content, FAST)
    assert fast != frame(content, 1)
    assert len(fast) < len(content) / 2
    assert unframe(fast, len(content)) == content


def test_a_library_that_takes_one_content_at_a_time_does_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    contents = [b"a" * 500, b"b"]
    at_once = [bytes(one) for one in frames(contents, 1)]
    monkeypatch.setattr(compression, "_MANY", False)
    assert [bytes(one) for one in frames(contents, 1)] == at_once


@given(st.binary(max_size=3000))
def test_a_frame_that_claims_more_than_allowed_is_refused(content: bytes) -> None:
    assert unframe(frame(content), len(content)) == content
    with pytest.raises(DamagedData):
        unframe(frame(content + b"x"), len(content))
