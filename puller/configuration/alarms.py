"""The table ``[alarms]`` as values: thresholds above which a point looks wrong."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Thresholds above which a point looks wrong, compared with its machine's history. See docs/report.md.

    Attributes:
        change: How many times as much must have changed as in any of the last points.
        share: The least part of the disks that must have changed.
        compression: The least part of the new data that must be left after compression.
        margin: How much larger that part must be than in nearly all of the last points.
        history: How many earlier points count.
        fewest: The fewest earlier points with which a point is judged.
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
