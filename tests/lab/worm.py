"""A store that keeps what it has (WORM): nothing is overwritten, and nothing deleted before its time."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf

from puller.errors import StoreDenied
from puller.store.base import Body
from tests.lab.simulated import Process, World


class WormStore(Process):
    """Objects are locked for ``days`` after they were put; with 0 they can only not be overwritten.

    Only those below ``prefix`` are.
    """

    def __init__(self, world: World, days: float = inf, prefix: str = "") -> None:
        super().__init__(world)
        self._prefix = prefix
        self._locked = days * 86400

    def put(self, key: str, body: Body) -> None:
        self._refuse(key in self.world.names(), f"{key} exists and cannot be overwritten")
        super().put(key, body)

    def delete(self, keys: Iterable[str]) -> None:
        """As stores do: what may go goes, whatever else is refused."""
        wanted = set(keys) & set(self.world.names())
        mine = {key for key in wanted if key.startswith(self._prefix)}
        locked = {key for key in mine if self.world.times[key] + self._locked > self.world.now}
        super().delete(sorted(wanted - locked))
        self._refuse(bool(locked), f"{len(locked)} objects are locked, such as {min(locked, default='')}")

    @staticmethod
    def _refuse(refused: bool, why: str) -> None:
        if refused:
            raise StoreDenied(why)
