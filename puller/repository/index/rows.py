"""Rows of the index: which pack and slot hold a content, as columns of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from puller.repository.format.footer import ID, Ids

Prefixes = NDArray[np.uint64]


def prefixes_of(ids: Ids) -> Prefixes:
    """The first 8 bytes of each of the (n, 16) ``ids``, as little-endian numbers: the order of the rows."""
    return np.ascontiguousarray(ids.reshape(-1, ID).view("<u8")[:, 0], np.uint64)


@dataclass(frozen=True, slots=True)
class Rows:
    """Three columns of equal length: ``ids`` (n, 16), ``numbers`` of packs, ``slots``."""

    ids: Ids
    numbers: NDArray[np.uint32]
    slots: NDArray[np.uint16]

    @classmethod
    def none(cls) -> Rows:
        """No rows."""
        return cls(np.zeros((0, ID), np.uint8), np.zeros(0, np.uint32), np.zeros(0, np.uint16))

    @classmethod
    def join(cls, parts: Sequence[Rows]) -> Rows:
        """The rows of all ``parts``, one after the other."""
        if not parts:
            return cls.none()
        return cls(
            np.concatenate([part.ids for part in parts]),
            np.concatenate([part.numbers for part in parts]),
            np.concatenate([part.slots for part in parts]),
        )

    def __len__(self) -> int:
        return len(self.numbers)

    def cut(self, first: int, stop: int) -> Rows:
        """Rows first … stop - 1, as views."""
        return Rows(self.ids[first:stop], self.numbers[first:stop], self.slots[first:stop])

    def take(self, chosen: NDArray[np.intp]) -> Rows:
        """The rows at the positions ``chosen``, in that order."""
        return Rows(
            np.take(self.ids, chosen, axis=0), np.take(self.numbers, chosen), np.take(self.slots, chosen)
        )

    def in_order(self) -> Rows:
        """The same rows by ascending prefix; the order of equal prefixes does not matter."""
        return self.take(np.argsort(prefixes_of(self.ids)))

    def renumbered(self, numbers: NDArray[np.int64]) -> Rows:
        """The rows with pack number k replaced by ``numbers[k]``; without those where that is negative."""
        changed = numbers[self.numbers]
        rows = Rows(self.ids, changed.astype(np.uint32), self.slots)
        return rows if bool((changed >= 0).all()) else rows.take(np.flatnonzero(changed >= 0))
