"""The priority of the threads that compress."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import replace

import pytest

from puller.host.priority import NICE
from puller.repository import repository as repositories
from puller.repository.format import chunk_slot
from puller.repository.format.compression import Content
from puller.repository.writing import run as writing
from puller.units import CHUNK
from tests.lab.feed import SMALL, feed, whole
from tests.lab.memory import MemoryStore


@pytest.mark.parametrize("gentle", [True, False])
def test_codecs_come_after_other_programs_if_the_run_is_gentle(
    monkeypatch: pytest.MonkeyPatch, gentle: bool
) -> None:
    own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    found = set[int]()

    def compress(contents: Sequence[Content], level: int) -> list[tuple[Content, int]]:
        found.add(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        return chunk_slot.compress(contents, level)

    monkeypatch.setattr(writing, "compress", compress)
    content = os.urandom(40 * CHUNK)
    with repositories.create(MemoryStore(), None).run(replace(SMALL, gentle=gentle)) as run:
        feed(run, run.disk(len(content), None), content, whole(content))
        run.drain()
    assert found == {max(NICE, own) if gentle else own}
