"""A store in memory that several simulated processes share: its clock stands still until a test moves it,
and a process can be killed or held at any of its operations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from puller.store.base import Body, ObjectInfo
from puller.store.memory import MemoryStore


class Died(BaseException):
    """The process is dead: nothing that it does from now on has an effect."""


@dataclass
class World:
    """What is stored, and the store's time in seconds."""

    objects: MemoryStore = field(default_factory=MemoryStore)
    times: dict[str, float] = field(default_factory=dict)
    now: float = 1_800_000_000.0

    def copy(self) -> World:
        """The same objects at the same time, apart from now on."""
        other = World(times=dict(self.times), now=self.now)
        for info in self.objects.list(""):
            other.objects.put(info.key, self.objects.get(info.key))
        return other

    def names(self, prefix: str = "") -> list[str]:
        return [info.key for info in self.objects.list(prefix)]


class Process:
    """The store as one process sees it. ``before`` and ``after`` are called at given operations."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.operations: list[str] = []
        self.before: dict[int, Callable[[], None]] = {}
        self.after: dict[int, Callable[[], None]] = {}
        self._dead = False

    @property
    def url(self) -> str:
        return "simulated:"

    def die(self) -> None:
        """To be put into ``before`` or ``after``."""
        self._dead = True
        raise Died

    def _operate(self, text: str) -> int:
        if self._dead:
            raise Died
        number = len(self.operations)
        self.operations.append(text)
        self.before.pop(number, _nothing)()
        return number

    def _done(self, number: int) -> None:
        self.after.pop(number, _nothing)()

    def _info(self, info: ObjectInfo) -> ObjectInfo:
        return replace(info, modified=self.world.times[info.key])

    def get(self, key: str, *, max_size: int | None = None) -> bytes:
        self._operate(f"get {key}")
        return self.world.objects.get(key, max_size=max_size)

    def get_range(self, key: str, offset: int, length: int, *, etag: str | None = None) -> bytes:
        self._operate(f"get {key}")
        return self.world.objects.get_range(key, offset, length, etag=etag)

    def get_tail(self, key: str, length: int) -> tuple[bytes, ObjectInfo]:
        self._operate(f"get {key}")
        content, info = self.world.objects.get_tail(key, length)
        return content, self._info(info)

    def put(self, key: str, body: Body) -> None:
        number = self._operate(f"put {key}")
        self.world.objects.put(key, body)
        self.world.times[key] = self.world.now
        self._done(number)

    def put_new(self, key: str, body: Body) -> None:
        number = self._operate(f"put {key}")
        self.world.objects.put_new(key, body)
        self.world.times[key] = self.world.now
        self._done(number)

    def stat(self, key: str) -> ObjectInfo:
        self._operate(f"stat {key}")
        return self._info(self.world.objects.stat(key))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        self._operate(f"list {prefix}")
        return iter([self._info(info) for info in self.world.objects.list(prefix)])

    def delete(self, keys: Iterable[str]) -> None:
        """Each key is an operation of its own, as a crash may leave some deleted and some not."""
        for key in keys:
            number = self._operate(f"delete {key}")
            self.world.objects.delete([key])
            self._done(number)


def _nothing() -> None:
    """At most operations nothing happens."""
