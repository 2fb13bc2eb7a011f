"""The plan of an exercise: its limits, which are printed before it begins."""

from __future__ import annotations

from dataclasses import dataclass

from puller.units import KIB, MIB

ROUNDS = 64
"""Objects that are put, read, listed, replaced and deleted, one request after the other."""

ROUNDS_AT_ONCE = 8

LISTED = 1050
"""Small objects in one list: more than the 1,000 of one answer."""

SAMPLED = 100
"""Small objects that are read again."""

RACES = 12
WRITERS = 8
"""Writers of one key at once in each race."""

RANGES = 48
"""Ranged reads of one large object; all but one are of ``RANGE`` bytes at most."""

RANGE = 128 * KIB
LATENCIES = 50
"""Calls of each operation that are timed."""

CONNECTIONS = (1, 2, 4, 8, 16)
"""Numbers of connections that the throughput is measured with."""

LARGEST = 32 * MIB
"""Bytes of the largest object: those of a pack."""

_LARGEST_PIECE = 8 * MIB
_REQUESTS = ROUNDS * 9 + LISTED + SAMPLED + RACES * (WRITERS + 1) + RANGES + LATENCIES * 4


@dataclass(frozen=True, slots=True)
class Plan:
    """At most ``size`` bytes are put in large objects, and the whole takes at most ``seconds``.

    ``stage_seconds`` limits the transfers of one number of connections in one direction.
    """

    size: int = 256 * MIB
    seconds: float = 300.0
    stage_seconds: float = 12.0

    @property
    def large(self) -> int:
        """Bytes of each of the two large objects."""
        return min(LARGEST, self.size // 8)

    @property
    def piece(self) -> int:
        """Bytes of one object of the throughput: each connection has at least one."""
        return min(_LARGEST_PIECE, self.size * 3 // 4 // len(CONNECTIONS) // max(CONNECTIONS))

    @property
    def pieces(self) -> int:
        """Objects for each number of connections."""
        return self.size * 3 // 4 // len(CONNECTIONS) // self.piece

    @property
    def down(self) -> int:
        """Most bytes that are read: the large objects, one of them twice more, and all pieces."""
        ranges = RANGES * min(RANGE, self.large) + 10 * 4 * KIB
        return 4 * self.large + ranges + len(CONNECTIONS) * self.pieces * self.piece + MIB

    @property
    def text(self) -> str:
        """The plan as a sentence."""
        requests = round(_REQUESTS + 2 * self.pieces * len(CONNECTIONS), -2)
        return (
            f"about {requests} requests, {self.size / MIB:.0f} MiB up and {self.down / MIB:.0f} MiB down, "
            f"in at most {self.seconds / 60:.0f} minutes"
        )
