"""Shard: a part of a repository's packs and machines, the same on every host that computes it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

from puller.errors import UsageError

if TYPE_CHECKING:
    from puller.repository.points import Point

_WORD = re.compile(r"(\d{1,6})/(\d{1,6})")


@dataclass(frozen=True, slots=True)
class Shard:
    """Part ``index`` of ``count`` parts of about equal size.

    Every pack and every machine is in exactly one of the shards 1 to ``count``. Index 0 is another name of
    the last one, because schedulers count from 0 or from 1.
    """

    index: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index <= self.count or self.count < 1:
            raise UsageError(
                f"invalid shard {self.index}/{self.count}",
                advice="Use I/N with I from 1 to N, such as 1/4; 0/N is the same as N/N.",
            )

    def has_pack(self, pack_id: bytes) -> bool:
        """Return whether the pack is in this shard. Pack ids are random, so the shards are even."""
        return self._has(int.from_bytes(pack_id))

    def has_machine(self, uuid: str) -> bool:
        """Return whether the points of the machine are in this shard."""
        return self._has(int.from_bytes(blake2b(uuid.encode(), digest_size=8).digest()))

    def of(self, points: Iterable[Point]) -> list[Point]:
        """Return the points whose machines are in this shard.

        A machine's points stay together: a copy builds on the machine's copy before it.
        """
        return [point for point in points if self.has_machine(point.uuid)]

    def _has(self, number: int) -> bool:
        return number % self.count == self.index % self.count


WHOLE = Shard()
"""All packs and machines."""


def parse(word: str) -> Shard:
    """Parse ``I/N``. Raises ValueError."""
    found = _WORD.fullmatch(word)
    if found is None:
        raise ValueError(f"invalid shard '{word}': use I/N with I from 1 to N, such as 1/4")
    try:
        return Shard(int(found[1]), int(found[2]))
    except UsageError as error:
        raise ValueError(f"{error.message}: use I/N with I from 1 to N, such as 1/4") from error
