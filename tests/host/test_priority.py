"""The priority of what comes after all others."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable

import pytest

from puller.host.priority import NICE, lower, lower_thread


def nice_of(thread: int) -> int:
    return os.getpriority(os.PRIO_PROCESS, thread)


def in_a_thread(work: Callable[[], None]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def test_a_thread_is_lowered_alone() -> None:
    found: list[int] = []

    def work() -> None:
        lower_thread()
        found.append(nice_of(threading.get_native_id()))

    before = nice_of(threading.get_native_id())
    in_a_thread(work)
    assert found == [max(NICE, before)]
    assert nice_of(threading.get_native_id()) == before


def test_a_thread_that_is_lower_already_stays_so() -> None:
    found: list[int] = []

    def work() -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
        lower_thread()
        found.append(nice_of(threading.get_native_id()))

    in_a_thread(work)
    assert found == [19]


def test_a_thread_whose_priority_cannot_be_set_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "setpriority", refuse)
    lower_thread()


def test_a_process_is_lowered() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        lower(process.pid)
        assert nice_of(process.pid) == NICE
