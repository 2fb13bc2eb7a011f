"""A buffer as a file: what the S3 client and the signer do with it."""

from __future__ import annotations

import io
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puller.store.s3.body import SMALL, BufferFile, upload_body


@given(st.binary(max_size=100), st.lists(st.tuples(st.sampled_from(["read", "seek"]), st.integers(0, 120))))
def test_behaves_as_a_file_in_memory(content: bytes, calls: list[tuple[str, int]]) -> None:
    ours, model = BufferFile(memoryview(content)), io.BytesIO(content)
    for name, number in calls:
        assert bytes_of(getattr(ours, name)(number)) == getattr(model, name)(number)
        assert ours.tell() == model.tell()
    assert len(ours) == len(content)


@given(st.binary(max_size=100), st.integers(0, 100), st.sampled_from([os.SEEK_CUR, os.SEEK_END]))
def test_seeks_from_elsewhere(content: bytes, start: int, whence: int) -> None:
    ours, model = BufferFile(content), io.BytesIO(content)
    for file in (ours, model):
        file.seek(start)
        file.seek(0, whence)
    assert ours.tell() == model.tell()
    assert ours.read() == model.read()


def test_hands_out_views_of_the_buffer() -> None:
    buffer = bytearray(b"0123456789")
    piece = BufferFile(buffer).read(4)
    buffer[0:1] = b"x"
    assert bytes(piece) == b"x123"


@pytest.mark.parametrize("form", [bytes, bytearray, memoryview])
def test_large_bodies_go_out_in_the_pieces_asked_for(form: type) -> None:
    """So that the socket's timeout counts for each piece; see ``BufferFile``."""
    body = upload_body(form(bytes(SMALL + 1)))
    assert isinstance(body, BufferFile)
    assert len(body.read(16384)) == 16384


def bytes_of(result: memoryview | int) -> bytes | int:
    return result if isinstance(result, int) else bytes(result)
