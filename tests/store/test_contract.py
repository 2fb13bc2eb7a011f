"""What every store does alike: the docstrings of ``Store``, held against all of them."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

import pytest

from puller.errors import DamagedData, ObjectExists, ObjectNotFound, PullerError
from puller.store.base import Body, Store
from puller.store.probe import honours_put_if_absent
from puller.store.wrapping.unconditional import UnconditionalStore

LARGE = 8 << 20


def keys_of(store: Store, prefix: str) -> list[str]:
    return [info.key for info in store.list(prefix)]


def outcomes(calls: Sequence[Callable[[], object]]) -> list[PullerError | None]:
    """Make the calls at once, each in a thread; return what each raised."""
    barrier = threading.Barrier(len(calls))
    raised: list[PullerError | None] = [None] * len(calls)

    def run(number: int) -> None:
        barrier.wait()
        try:
            calls[number]()
        except PullerError as error:
            raised[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


class TestPutAndGet:
    def test_returns_what_was_put(self, store: Store) -> None:
        store.put("packs/ab/abcd", b"content")
        assert store.get("packs/ab/abcd") == b"content"

    def test_replaces(self, store: Store) -> None:
        store.put("a", b"longer than the next")
        store.put("a", b"short")
        assert store.get("a") == b"short"

    def test_holds_an_empty_object(self, store: Store) -> None:
        store.put("a", b"")
        assert store.get("a") == b""
        assert store.stat("a").size == 0

    @pytest.mark.parametrize("form", [bytes, bytearray, memoryview])
    def test_takes_large_bodies_of_every_form(self, store: Store, form: Callable[[bytes], Body]) -> None:
        content = os.urandom(LARGE)
        store.put("packs/00/large", form(content))
        assert store.get("packs/00/large") == content

    def test_takes_a_part_of_a_buffer_and_keeps_it(self, store: Store) -> None:
        buffer = bytearray(os.urandom(LARGE))
        expected = bytes(buffer[1000:-1000])
        store.put("a", memoryview(buffer)[1000:-1000])
        buffer[:] = bytes(LARGE)
        assert store.get("a") == expected

    def test_absent(self, store: Store) -> None:
        store.put("a/b", b"")
        for key in ("a/c", "b", "a"):
            with pytest.raises(ObjectNotFound, match=key):
                store.get(key)

    def test_nothing_was_ever_put(self, store: Store) -> None:
        with pytest.raises(ObjectNotFound):
            store.get("repository.json")
        assert keys_of(store, "") == []

    def test_refuses_an_object_larger_than_plausible(self, store: Store) -> None:
        store.put("a", b"12345")
        assert store.get("a", max_size=5) == b"12345"
        with pytest.raises(DamagedData, match="5 bytes"):
            store.get("a", max_size=4)
        assert store.get("a") == b"12345"

    def test_readers_never_see_a_mixture(self, store: Store) -> None:
        contents = {bytes([digit]) * 300_000 for digit in b"0123"}
        store.put("a", b"0" * 300_000)
        writers = [partial(store.put, "a", content) for content in sorted(contents)]
        seen: list[bytes] = []
        raised = outcomes([*writers, lambda: seen.extend(store.get("a") for _ in range(8))])
        assert raised == [None] * 5
        assert set(seen) <= contents


class TestExists:
    def test_by_the_whole_key(self, store: Store) -> None:
        store.put("points/ab", b"")
        store.put("points/abc/d", b"")
        assert store.exists("points/ab")
        assert store.exists("points/abc/d")
        assert not store.exists("points/a")
        assert not store.exists("points/abc")

    def test_nothing_was_ever_put(self, store: Store) -> None:
        assert not store.exists("repository.json")


class TestPutNew:
    def test_only_if_absent(self, store: Store) -> None:
        store.put_new("points/a", b"first")
        with pytest.raises(ObjectExists, match="points/a"):
            store.put_new("points/a", b"second")
        assert store.get("points/a") == b"first"

    def test_again_after_delete(self, store: Store) -> None:
        store.put_new("locks/prune", b"first")
        store.delete(["locks/prune"])
        store.put_new("locks/prune", b"second")
        assert store.get("locks/prune") == b"second"

    def test_large_body(self, store: Store) -> None:
        content = os.urandom(LARGE)
        store.put_new("a", memoryview(content))
        assert store.get("a") == content

    def test_one_of_many_at_once_wins(self, store: Store, request: pytest.FixtureRequest) -> None:
        if isinstance(store, UnconditionalStore):
            pytest.skip("what this one cannot do")
        if "moto" in request.node.name:
            pytest.skip("moto looks whether the object exists, and then puts it")
        for attempt in range(3):
            key = f"points/{attempt}"
            bodies = [b"first writer", b"second writer"]
            raised = outcomes([partial(store.put_new, key, body) for body in bodies])
            winners = [body for body, error in zip(bodies, raised, strict=True) if error is None]
            assert [type(error) for error in raised if error is not None] == [ObjectExists]
            assert [store.get(key)] == winners

    def test_probe_finds_it_honoured_and_leaves_nothing(self, store: Store) -> None:
        assert honours_put_if_absent(store, "locks/probe-")
        assert keys_of(store, "") == []


class TestGetRange:
    @pytest.mark.parametrize(
        ("offset", "length", "expected"),
        [
            (0, 1, b"0"),
            (0, 10, b"0123456789"),
            (3, 4, b"3456"),
            (9, 1, b"9"),
            (7, 100, b"789"),
            (10, 1, b""),
            (5000, 3, b""),
        ],
    )
    def test_returns_the_range(self, store: Store, offset: int, length: int, expected: bytes) -> None:
        store.put("a", b"0123456789")
        assert store.get_range("a", offset, length) == expected

    def test_empty_object(self, store: Store) -> None:
        store.put("a", b"")
        assert store.get_range("a", 0, 5) == b""

    def test_absent(self, store: Store) -> None:
        with pytest.raises(ObjectNotFound):
            store.get_range("a", 0, 5)

    @pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, 0), (0, -5)])
    def test_senseless_range(self, store: Store, offset: int, length: int) -> None:
        with pytest.raises(ValueError, match="range"):
            store.get_range("a", offset, length)


class TestGetRanges:
    def test_returns_each_range_in_its_order(self, store: Store) -> None:
        store.put("a", b"0123456789")
        assert store.get_ranges("a", [(7, 100), (0, 2), (10, 1), (3, 4)]) == [b"789", b"01", b"", b"3456"]

    def test_absent(self, store: Store) -> None:
        with pytest.raises(ObjectNotFound):
            store.get_ranges("a", [(0, 5), (7, 1)])

    @pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, 0), (0, -5)])
    def test_senseless_range(self, store: Store, offset: int, length: int) -> None:
        store.put("a", b"0123456789")
        with pytest.raises(ValueError, match="range"):
            store.get_ranges("a", [(0, 1), (offset, length)])


class TestGetTail:
    @pytest.mark.parametrize("length", [1, 4, 9, 10, 11, 65536])
    def test_returns_the_tail_and_the_info(self, store: Store, length: int) -> None:
        store.put("a", b"0123456789")
        assert store.get_tail("a", length) == (b"0123456789"[-length:], store.stat("a"))

    def test_large_object(self, store: Store) -> None:
        content = os.urandom(LARGE)
        store.put("a", content)
        tail, info = store.get_tail("a", 65536)
        assert tail == content[-65536:]
        assert info.size == LARGE

    def test_empty_object(self, store: Store) -> None:
        store.put("a", b"")
        assert store.get_tail("a", 10) == (b"", store.stat("a"))

    def test_absent(self, store: Store) -> None:
        with pytest.raises(ObjectNotFound):
            store.get_tail("a", 10)

    def test_senseless_length(self, store: Store) -> None:
        with pytest.raises(ValueError, match="range"):
            store.get_tail("a", 0)


class TestStat:
    def test_tells_size_and_time(self, store: Store) -> None:
        before = time.time()
        store.put("keys/a", b"12345")
        info = store.stat("keys/a")
        assert (info.key, info.size) == ("keys/a", 5)
        # S3 tells whole seconds, and file systems round to a tick of the kernel.
        assert before - 2 <= info.modified <= time.time() + 2

    def test_etag_changes_with_the_content_only(self, store: Store) -> None:
        store.put("a", b"12345")
        first = store.stat("a").etag
        assert store.stat("a").etag == first
        store.put("a", b"54321")
        assert store.stat("a").etag != first

    def test_absent(self, store: Store) -> None:
        store.put("a/b", b"")
        for key in ("b", "a"):
            with pytest.raises(ObjectNotFound, match=key):
                store.stat(key)


class TestList:
    def test_sorted_and_at_any_depth(self, store: Store) -> None:
        keys = ["repository.json", "packs/ff/b", "packs/00/c", "packs/00/a", "index/1", "points/u/20261123"]
        for key in keys:
            store.put(key, key.encode())
        assert keys_of(store, "") == sorted(keys)
        assert keys_of(store, "packs/") == ["packs/00/a", "packs/00/c", "packs/ff/b"]

    def test_tells_what_stat_tells(self, store: Store) -> None:
        store.put("packs/ab/a", b"12345")
        (listed,) = store.list("packs/")
        stat = store.stat("packs/ab/a")
        assert (listed.key, listed.size, listed.etag) == (stat.key, stat.size, stat.etag)
        assert abs(listed.modified - stat.modified) <= 1

    def test_a_prefix_ends_with_its_segment(self, store: Store) -> None:
        for key in ("points/ab/1", "points/abc/1", "points/a/1", "points/ab/2"):
            store.put(key, b"")
        assert keys_of(store, "points/ab/") == ["points/ab/1", "points/ab/2"]

    def test_nothing_there(self, store: Store) -> None:
        store.put("points/a", b"")
        assert keys_of(store, "packs/") == []

    def test_more_than_one_page(self, store: Store) -> None:
        keys = [f"index/{number:04}" for number in range(1100)]

        def put_every_fourth(first: int) -> None:
            for key in keys[first::4]:
                store.put(key, b"x")

        assert outcomes([partial(put_every_fourth, first) for first in range(4)]) == [None] * 4
        assert keys_of(store, "index/") == keys
        store.delete(iter(keys[5:]))
        assert keys_of(store, "index/") == keys[:5]

    @pytest.mark.parametrize("prefix", ["packs", "/", "../", "packs//", "packs/.tmp-a/"])
    def test_senseless_prefix(self, store: Store, prefix: str) -> None:
        with pytest.raises(ValueError, match=r"key|prefix"):
            store.list(prefix)


class TestDelete:
    def test_deletes_what_is_named_and_nothing_else(self, store: Store) -> None:
        for key in ("a", "b/c", "b/d"):
            store.put(key, b"")
        store.delete(["a", "b/c"])
        assert keys_of(store, "") == ["b/d"]

    def test_absent_keys_are_fine(self, store: Store) -> None:
        store.delete(["nothing/there"])
        store.put("a", b"")
        store.delete(["zz", "a", "a", "b/c"])
        store.delete([])
        assert keys_of(store, "") == []


@pytest.mark.parametrize(
    "key", ["", "/a", "a/", "a//b", "..", "a/../b", "./a", "a/.hidden", "a/x.tmp-1", "a\0b"]
)
def test_keys_stay_below_the_root(store: Store, key: str) -> None:
    for call in (
        lambda: store.get(key),
        lambda: store.put(key, b""),
        lambda: store.put_new(key, b""),
        lambda: store.stat(key),
        lambda: store.delete([key]),
        lambda: store.get_range(key, 0, 1),
        lambda: store.get_tail(key, 1),
    ):
        with pytest.raises(ValueError, match="not an object key"):
            call()


def test_a_range_far_longer_than_the_object_costs_nothing(store: Store) -> None:
    store.put("a", b"content")
    assert store.get_range("a", 3, 1 << 40) == b"tent"
    assert store.get_tail("a", 1 << 40)[0] == b"content"
