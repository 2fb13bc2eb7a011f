"""Threads that share one fate."""

import threading
from collections.abc import Callable

import pytest

from puller.pipeline.buffers import BufferPool
from puller.pipeline.flow import Flow


def test_crew_does_every_item_and_finish_waits() -> None:
    done: list[int] = []
    with Flow() as flow:
        crew = flow.crew("t", 3, 2, done.append)
        for number in range(100):
            crew.put(number)
        crew.finish()
        assert sorted(done) == list(range(100))


def test_first_error_reaches_the_caller_though_the_lane_is_full() -> None:
    def fail(number: int) -> None:
        raise ValueError("first")

    with pytest.raises(ValueError, match="first"), Flow() as flow:
        crew = flow.crew("t", 1, 1, fail)
        for number in range(100):
            crew.put(number)


def test_error_in_one_crew_wakes_those_who_wait_elsewhere() -> None:
    with pytest.raises(ValueError, match="broken"), Flow() as flow:
        pool = flow.adopt(BufferPool(1, 16))
        pool.acquire()
        waiting = threading.Event()

        def wait_for_buffer() -> None:
            waiting.set()
            pool.acquire()

        def fail() -> None:
            waiting.wait()
            raise ValueError("broken")

        flow.spawn("waits", wait_for_buffer)
        flow.spawn("fails", fail)


def test_error_of_the_body_stops_the_threads() -> None:
    with pytest.raises(KeyError), Flow() as flow:
        flow.crew("t", 2, 1, print)
        raise KeyError("body")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("t-")]


def test_a_signal_as_a_thread_is_started_is_what_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    class Signal(BaseException):
        pass

    def interrupted(thread: threading.Thread) -> None:
        raise Signal

    with pytest.raises(Signal), Flow() as flow:
        flow.spawn("early", lambda: None)
        monkeypatch.setattr(threading.Thread, "start", interrupted)
        flow.spawn("late", lambda: None)


def test_a_thread_whose_start_was_interrupted_begins_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal comes when the thread is there already and has not said so yet: nobody can join it then."""

    class Signal(BaseException):
        pass

    late: list[Callable[[], None]] = []
    worked: list[str] = []
    with pytest.raises(Signal), Flow() as flow:

        def interrupted(thread: threading.Thread) -> None:
            late.append(thread.run)
            raise Signal

        monkeypatch.setattr(threading.Thread, "start", interrupted)
        flow.spawn("late", lambda: worked.append("late"))
    late[0]()
    assert worked == []


def test_leaving_without_finish_does_not_hang() -> None:
    with Flow() as flow:
        flow.crew("t", 2, 1, print)


def test_pool_reuses_and_bounds() -> None:
    with Flow() as flow:
        pool = flow.adopt(BufferPool(2, 8))
        first, second = pool.acquire(), pool.acquire()
        assert pool.try_acquire() is None
        first.release()
        assert pool.try_acquire() is first
        assert len(second.view) == 8
