"""From where on a point looks wrong: the table ``[alarms]`` as values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Thresholds:
    """From where on a point looks wrong by its machine's history. docs/report.md describes the keys.

    Attributes:
        change: How many times more must have changed than in any of the last points.
        share: What part of the disks must have changed, at least.
        compression: What part of what is new must be left after compression, at least.
        margin: How much more that must be than in nearly all of the last points.
        history: How many earlier points count.
        fewest: Below how many nothing is said.
    """

    change: float = 3.0
    share: float = 0.2
    compression: float = 0.9
    margin: float = 0.1
    history: int = 30
    fewest: int = 7


DEFAULTS = Thresholds()


def thresholds(table: dict[str, float]) -> Thresholds:
    """Return the thresholds of the table ``[alarms]``, whose parts are in percent."""
    return Thresholds(
        change=table.get("change", DEFAULTS.change),
        share=table.get("share", 100 * DEFAULTS.share) / 100,
        compression=table.get("compression", 100 * DEFAULTS.compression) / 100,
    )
