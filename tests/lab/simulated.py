"""A store in memory that several simulated processes share: its clock stands still until a test moves it,
and a process can be killed or held at any of its operations, or be left without an answer."""

from __future__ import annotations

import enum
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NoReturn, Self

from puller.cancelling import CancelScope
from puller.errors import ObjectExists, StoreUnavailable
from puller.store.base import Body, ObjectInfo
from puller.store.objectlock import Unlockable
from tests.lab.memory import MemoryStore

NOTES = ("locks/", "pending/", "points/", "kept/")
"""Prefixes of what nothing else refers to."""


class Died(BaseException):
    """The process is dead: nothing that it does from now on has an effect."""


class Failure(enum.Enum):
    """What becomes of one operation."""

    DIES_BEFORE = "the process dies before it"
    DIES_AFTER = "the process dies after it"
    DIES_LATE = "the process dies, and then it takes effect"
    REFUSED = "it fails and has no effect"
    UNANSWERED = "it takes effect, and the answer is lost"
    LATE = "it fails, and takes effect later"


@dataclass(frozen=True)
class Late:
    """A request on its way: takes effect at ``due``, in seconds by the store's clock."""

    due: float
    key: str
    effect: Callable[[], None]


@dataclass
class World:
    """What is stored, and the store's time in seconds.

    ``harm`` counts what might have hurt a reader: anything deleted that is no note. Nothing is overwritten.
    """

    objects: MemoryStore = field(default_factory=MemoryStore)
    times: dict[str, float] = field(default_factory=dict)
    now: float = 1_800_000_000.0
    late: list[Late] = field(default_factory=list)
    harm: int = 0

    def copy(self) -> World:
        """The same objects at the same time, apart from now on."""
        other = World(times=dict(self.times), now=self.now)
        for info in self.objects.list(""):
            other.objects.put(info.key, self.objects.get(info.key))
        return other

    def put(self, key: str, body: Body) -> None:
        self.objects.put(key, body)
        self.times[key] = self.now

    def put_new(self, key: str, body: Body) -> None:
        self.objects.put_new(key, body)
        self.times[key] = self.now

    def remove(self, key: str) -> None:
        self.harm += not key.startswith(NOTES)
        self.objects.delete([key])

    def advance(self, seconds: float) -> None:
        """Let time pass, and take effect what is late, each when it is due."""
        end = self.now + seconds
        while due := sorted((item for item in self.late if item.due <= end), key=lambda item: item.due):
            self.late.remove(due[0])
            self.now = max(self.now, due[0].due)
            with suppress(ObjectExists):
                due[0].effect()
        self.now = end

    def names(self, prefix: str = "") -> list[str]:
        return [info.key for info in self.objects.list(prefix)]


class Process(Unlockable):
    """The store as one process sees it. ``before`` and ``after`` are called at given operations."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.operations: list[str] = []
        self.before: dict[int, Callable[[], None]] = {}
        self.after: dict[int, Callable[[], None]] = {}
        self._dead = False

    scope = CancelScope()

    def within(self, scope: CancelScope) -> Self:
        return self

    @property
    def url(self) -> str:
        return "simulated:"

    def die(self) -> NoReturn:
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

    def _info(self, info: ObjectInfo) -> ObjectInfo:
        return replace(info, modified=self.world.times[info.key])

    def get(self, key: str, *, max_size: int | None = None) -> bytes:
        self._operate(f"get {key}")
        return self.world.objects.get(key, max_size=max_size)

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        self._operate(f"get {key}")
        return self.world.objects.get_range(key, offset, length)

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        return [self.get_range(key, offset, length) for offset, length in ranges]

    def get_tail(self, key: str, length: int) -> tuple[bytes, ObjectInfo]:
        self._operate(f"get {key}")
        content, info = self.world.objects.get_tail(key, length)
        return content, self._info(info)

    def put(self, key: str, body: Body) -> None:
        assert key not in self.world.names(), f"{key} is overwritten"
        self._change("put", key, partial(self.world.put, key, body))

    def put_new(self, key: str, body: Body) -> None:
        self._change("put", key, partial(self.world.put_new, key, body))

    def stat(self, key: str) -> ObjectInfo:
        self._operate(f"stat {key}")
        return self._info(self.world.objects.stat(key))

    def exists(self, key: str) -> bool:
        self._operate(f"list {key}")
        return self.world.objects.exists(key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        self._operate(f"list {prefix}")
        return iter([self._info(info) for info in self.world.objects.list(prefix)])

    def delete(self, keys: Iterable[str]) -> None:
        """Each key is an operation of its own, as a crash may leave some deleted and some not."""
        for key in keys:
            self._change("delete", key, partial(self.world.remove, key))

    def sweep(self, prefixes: Iterable[str], before: float) -> None:
        """A put leaves nothing."""

    def _change(self, verb: str, key: str, effect: Callable[[], None]) -> None:
        number = self._operate(f"{verb} {key}")
        effect()
        self.after.pop(number, _nothing)()


class ShakyProcess(Process):
    """A process one of whose turns fails, or gives others time to act before it.

    Its turns are its puts, deletes and listings: between them it only reads. They come in the same order
    whenever a history is played again, as its threads wait for each other there.
    """

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.turn = 0
        self.failures: dict[int, tuple[Failure, float]] = {}
        self.pauses: dict[int, Callable[[], None]] = {}

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        failure, _ = self._next_turn()
        if failure is None:
            return super().list(prefix)
        self._operate(f"list {prefix}")
        return self._fail(failure, f"list {prefix}")

    def put(self, key: str, body: Body) -> None:
        super().put(key, bytes(body))  # a late one outlives its buffer

    def put_new(self, key: str, body: Body) -> None:
        super().put_new(key, bytes(body))

    def _change(self, verb: str, key: str, effect: Callable[[], None]) -> None:
        failure, delay = self._next_turn()
        if failure is None:
            super()._change(verb, key, effect)
            return
        self._operate(f"{verb} {key}")
        if failure in {Failure.LATE, Failure.DIES_LATE}:
            self.world.late.append(Late(self.world.now + delay, key, effect))
        elif failure in {Failure.UNANSWERED, Failure.DIES_AFTER}:
            effect()
        self._fail(failure, f"{verb} {key}")

    def _next_turn(self) -> tuple[Failure | None, float]:
        if self._dead:
            raise Died
        number, self.turn = self.turn, self.turn + 1
        self.pauses.pop(number, _nothing)()
        return self.failures.pop(number, (None, 0.0))

    def _fail(self, failure: Failure, what: str) -> NoReturn:
        if failure in {Failure.DIES_BEFORE, Failure.DIES_AFTER, Failure.DIES_LATE}:
            self.die()
        raise StoreUnavailable(f"no answer to {what}")


class InSomeOrder:
    """Makes independent requests one after the other, always in the same order.

    It takes the place of ``puller.store.parallel.all_together``, so that operations can be counted. The order
    is any: what it finds harmless may happen at the same time.
    """

    def __init__(self) -> None:
        self._chance = random.Random(1)

    def do_all(self, scope: CancelScope, works: Sequence[Callable[[CancelScope], Any]]) -> list[Any]:
        order = list(range(len(works)))
        self._chance.shuffle(order)
        done = {number: works[number](scope) for number in order}
        return [done[number] for number in range(len(works))]


def _nothing() -> None:
    """At most operations nothing happens."""
