"""zstd frames, one at a time and many in a call."""

import random
import zlib

import pytest
from hypothesis import example, given, settings
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


def pieces(seed: int, longest: int) -> bytes:
    """A chunk of noise, with repeats, zeros and text in it, each at most ``longest`` bytes."""
    chance = random.Random(seed)
    content = bytearray(chance.randbytes(100))
    while len(content) < CHUNK:
        length = chance.randint(1, longest)
        copied = chance.randrange(len(content))
        kinds = [chance.randbytes(length)] * 8
        kinds += [bytes(min(length, 500)), b"line %d\n" % seed * (length // 10)]
        kinds += [bytes(content[copied : copied + length])]
        content += chance.choice(kinds)
    return bytes(content[:CHUNK])


@settings(max_examples=40, deadline=None)
@example(seed=1540698, longest=30000, level=11)  # level 10 alone steps over the repeat
@given(st.integers(0, 1 << 32), st.sampled_from([30, 300, 3000, 30000]), st.sampled_from([11, 13]))
def test_what_is_not_searched_would_hardly_have_shrunk(seed: int, longest: int, level: int) -> None:
    content = pieces(seed, longest)
    (stored,) = frames([content], level)
    assert unframe(bytes(stored), CHUNK) == content
    assert len(stored) <= len(frame(content, level)) + CHUNK // 16


def test_content_that_is_compressed_already_is_not_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = "".join(f"{number} {random.Random(number).random()}\n" for number in range(60000))
    packed = zlib.compress(lines.encode())
    chunks = [packed[at : at + CHUNK] for at in range(0, len(packed) - CHUNK, CHUNK)]
    assert len(chunks) > 5
    searched = sum(min(len(frame(chunk, 19)), CHUNK) for chunk in chunks)
    quick = {level: compression._compressor(level) for level in (1, compression._QUICK)}
    monkeypatch.setattr(compression._per_thread, "compressors", {**quick, 19: None})
    stored = sum(min(len(one), CHUNK) for one in frames(chunks, 19))
    assert stored <= 1.005 * searched


def test_content_that_shrinks_beside_a_middle_of_noise_is_searched() -> None:
    middle = CHUNK // 2
    content = b"text " * (middle // 5) + random.Random(1).randbytes(5000) + b"more " * (middle // 5)
    assert list(frames([content], 13)) == [frame(content, 13)]


@pytest.mark.parametrize("level", [11, 19])
def test_short_repeats_that_level_1_misses_are_found(level: int) -> None:
    """As in a table of keys: a higher level must not store more than a lower one."""
    chance = random.Random(1)
    words = [chance.randbytes(4) for _ in range(300)]
    content = b"".join(chance.choice(words) + chance.randbytes(2) for _ in range(CHUNK // 6))
    (stored,) = frames([content], level)
    assert len(stored) <= 1.01 * len(frame(content, 10)) < 0.7 * len(frame(content, 1))
