"""Stores that lie, each in one way. The stores that they wrap are sound."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice

from puller.errors import ObjectExists, ObjectNotFound, StoreDenied, UnsupportedByStore
from puller.store.base import Body, ObjectInfo, Store
from puller.store.wrapping.wrapped import WrappedStore

LARGE = 64 << 10


def parent(key: str) -> str:
    return key.rpartition("/")[0] + "/"


class Stale(WrappedStore):
    """Reads give the content before the last replacement."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._old: dict[str, bytes] = {}

    def put(self, key: str, body: Body) -> None:
        with suppress(ObjectNotFound):
            self._old[key] = self._store.get(key)
        super().put(key, body)

    def get(self, key: str, *, max_size: int | None = None) -> bytes:
        return self._old.get(key) or super().get(key, max_size=max_size)


class RemembersAbsence(WrappedStore):
    """The first read of an object that was once looked up in vain fails."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._absent: set[str] = set()

    def stat(self, key: str) -> ObjectInfo:
        try:
            return super().stat(key)
        except ObjectNotFound:
            self._absent.add(key)
            raise

    def get(self, key: str, *, max_size: int | None = None) -> bytes:
        if key in self._absent:
            self._absent.discard(key)
            raise ObjectNotFound(f"{key} is not there")
        return super().get(key, max_size=max_size)


class MissesFresh(WrappedStore):
    """A list misses the last put of its folder, once."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._fresh: dict[str, str] = {}

    def put(self, key: str, body: Body) -> None:
        super().put(key, body)
        self._fresh[parent(key)] = key

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        fresh = self._fresh.pop(prefix, None)
        return (info for info in super().list(prefix) if info.key != fresh)


class _RemembersDeleted(WrappedStore):
    """Keeps what is known of deleted objects, each under ``_name`` of its key."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._gone: dict[str, ObjectInfo] = {}

    @staticmethod
    def _name(key: str) -> str:
        return key

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            with suppress(ObjectNotFound):
                self._gone[self._name(key)] = self._store.stat(key)
            super().delete([key])


class ShowsDeleted(_RemembersDeleted):
    """A list shows the last deleted object of its folder, once."""

    @staticmethod
    def _name(key: str) -> str:
        return parent(key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        yield from super().list(prefix)
        if (gone := self._gone.pop(prefix, None)) is not None:
            yield gone


class FindsDeleted(_RemembersDeleted):
    """A deleted object is found once more."""

    def stat(self, key: str) -> ObjectInfo:
        return self._gone.pop(key, None) or super().stat(key)


class StopsAtThousand(WrappedStore):
    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return islice(super().list(prefix), 1000)


class Repeats(WrappedStore):
    """The second answer to a list begins ten keys too early."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        infos = list(super().list(prefix))
        return iter([*infos[:1000], *(infos[990:] if len(infos) > 1000 else ())])


class Shuffles(WrappedStore):
    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return iter(list(super().list(prefix))[::-1])


class ListsWrongSizes(WrappedStore):
    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return (replace(info, size=info.size + 1) for info in super().list(prefix))


class TwoWinners(WrappedStore):
    """The second writer of a new key wins too."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._won: dict[str, int] = {}

    def put_new(self, key: str, body: Body) -> None:
        self._won[key] = self._won.get(key, 0) + 1
        if self._won[key] > 2:
            raise ObjectExists(f"{key} exists")
        super().put(key, body)


class LoserReplaces(WrappedStore):
    """A refused put has replaced the object anyway."""

    def put_new(self, key: str, body: Body) -> None:
        try:
            super().put_new(key, body)
        except ObjectExists:
            self._store.put(key, b"a loser's")
            raise


class NobodyWins(WrappedStore):
    def put_new(self, key: str, body: Body) -> None:
        raise ObjectExists(f"{key} exists")


class IgnoresCondition(WrappedStore):
    def put_new(self, key: str, body: Body) -> None:
        super().put(key, body)


class RefusesCondition(WrappedStore):
    def put_new(self, key: str, body: Body) -> None:
        raise UnsupportedByStore(f"cannot store {key}: not implemented")


class Truncates(WrappedStore):
    """Large bodies lose their last byte."""

    def get(self, key: str, *, max_size: int | None = None) -> bytes:
        content = super().get(key, max_size=max_size)
        return content[:-1] if len(content) > LARGE else content


class Swaps(WrappedStore):
    """A read of a large object gives the content of its neighbour."""

    def get(self, key: str, *, max_size: int | None = None) -> bytes:
        content = super().get(key, max_size=max_size)
        if len(content) <= LARGE:
            return content
        number = int(key[-1])
        return super().get(f"{key[:-1]}{number ^ 1}", max_size=max_size)


class SwapsSmall(WrappedStore):
    """Every read of a small object of a list gives the content of its neighbour."""

    def get(self, key: str, *, max_size: int | None = None) -> bytes:
        if "/many/" not in key:
            return super().get(key, max_size=max_size)
        return super().get(f"{key[:-1]}{int(key[-1]) ^ 1}", max_size=max_size)


class CorruptsRanges(WrappedStore):
    def get_range(self, key: str, offset: int, length: int) -> bytes:
        found = super().get_range(key, offset, length)
        return bytes([found[0] ^ 1]) + found[1:]

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        return [self.get_range(key, *part) for part in ranges]


class ShortensRanges(CorruptsRanges):
    def get_range(self, key: str, offset: int, length: int) -> bytes:
        return WrappedStore.get_range(self, key, offset, length)[:-1]


class CorruptsTails(WrappedStore):
    def get_tail(self, key: str, length: int) -> tuple[bytes, ObjectInfo]:
        found, info = super().get_tail(key, length)
        return found[:-1] + bytes([found[-1] ^ 1]), info


class LiesAboutSizes(WrappedStore):
    def get_tail(self, key: str, length: int) -> tuple[bytes, ObjectInfo]:
        found, info = super().get_tail(key, length)
        return found, replace(info, size=info.size - 1)


class KeepsAll(WrappedStore):
    """A deletion succeeds without effect."""

    def delete(self, keys: Iterable[str]) -> None:
        pass


class MayNotDelete(WrappedStore):
    def delete(self, keys: Iterable[str]) -> None:
        raise StoreDenied("cannot delete objects: access denied")
