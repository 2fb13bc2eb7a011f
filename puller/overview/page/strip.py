"""The days of a machine as an SVG strip. Pure.

Each day is a cell of ``CELL`` units. A run of equal days is one dashed line, whose dashes are its cells, so a
year of nights takes some twenty bytes::

    kept ▮▮▮▮  late ▬▬  gone ··  a proven day has a dot, a failed drill a notch, a copied day a line below
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, groupby

from markupsafe import Markup, escape

from puller.overview.calendar import Day
from puller.overview.places import DiskPlaces
from puller.units import format_bytes

CELL = 10
"""Width of a day."""

HEIGHT = 18
"""Height of a strip."""

_GAP = 2
_LEVELS = 4
_MIDDLE, _BELOW = 7, 16

_LINES: tuple[tuple[str, int, Callable[[Day], bool]], ...] = (
    ("k", _MIDDLE, lambda day: day.state == "kept"),
    ("g", _MIDDLE, lambda day: day.state == "gone"),
    ("l", _MIDDLE, lambda day: day.state == "late"),
    ("c", _BELOW, lambda day: day.copied),
)
_DOTS: tuple[tuple[str, Callable[[Day], bool]], ...] = (
    ("p", lambda day: day.proven),
    ("f", lambda day: day.failed),
    ("a", lambda day: day.alarming),
)


def strip(days: Sequence[Day]) -> Markup:
    """Return the SVG of the days, with what a screen reader says about it."""
    lines = [
        _path(name, [f"M{x} {y}h{width - _GAP}" for x, width in _runs(days, has)]) for name, y, has in _LINES
    ]
    dots = [
        _path(name, [f"M{x + 4} {_MIDDLE}h{width - CELL + 0.1:g}" for x, width in _runs(days, has)])
        for name, has in _DOTS
    ]
    frame = f'{_frame(len(days), HEIGHT)} role="img" aria-label="{spoken(days)}"'
    return Markup(f'<svg class="s" {frame}>{"".join(lines + dots)}</svg>')


def spoken(days: Sequence[Day]) -> str:
    """Return the days in words."""
    counts = (
        (sum(day.state == "kept" for day in days), "with a point"),
        (sum(day.state == "gone" for day in days), "whose point is gone"),
        (sum(day.state == "late" for day in days), "late"),
        (sum(day.proven for day in days), "proven"),
        (sum(day.failed for day in days), "with a failed drill"),
        (sum(day.copied for day in days), "copied"),
        (sum(day.alarming for day in days), "that look wrong"),
    )
    said = ", ".join(f"{count} {what}" for count, what in counts if count)
    return f"{len(days)} days: {said or 'nothing is known'}"


def bars(values: Sequence[int], height: int, top: int = 0) -> Markup:
    """Return an SVG with a bar for each day. Screen readers skip it, because the numbers are in the text.

    The highest is ``height`` units high, or ``top`` is.
    """
    most = max(top, *values, 1)
    heights = [round(height * value / most) or int(value > 0) for value in values]
    path = "".join(f"M{x * CELL + 4} {height}v-{bar}" for x, bar in enumerate(heights) if bar)
    return Markup(f'<svg class="b" {_frame(len(values), height)} aria-hidden="true"><path d="{path}"/></svg>')


def heat(places: DiskPlaces) -> Markup:
    """Return an SVG of a disk, from begin to end. The more often a part changed, the stronger its colour."""
    levels = [-(-_LEVELS * count // places.pairs) for count in places.changed]
    runs = [(level, len(list(group))) for level, group in groupby(levels)]
    ends = list(accumulate(length for _, length in runs))
    parts = [
        (level, CELL * (end - length), CELL * length) for (level, length), end in zip(runs, ends, strict=True)
    ]
    paths = [
        _path(f"h{wanted}", [f"M{x} 4h{width}" for level, x, width in parts if level == wanted])
        for wanted in range(1, _LEVELS + 1)
    ]
    frame = f'{_frame(len(levels), 8)} role="img" aria-label="{escape(_spoken_heat(places))}"'
    return Markup(f'<svg class="h" {frame}>{"".join(paths)}</svg>')


def _spoken_heat(places: DiskPlaces) -> str:
    touched = [number for number, count in enumerate(places.changed) if count]
    if not touched:
        return f"{places.disk}: nothing changed"
    most = max(touched, key=lambda number: places.changed[number])
    begin, end = (format_bytes(number * places.part_bytes) for number in (most, most + 1))
    return (
        f"{places.disk}: change in {len(touched)} of {len(places.changed)} parts of the disk, "
        f"most often from {begin} to {end}"
    )


def _frame(days: int, height: int) -> str:
    return f'viewBox="0 0 {days * CELL} {height}" preserveAspectRatio="none"'


def _runs(days: Sequence[Day], has: Callable[[Day], bool]) -> Iterator[tuple[int, int]]:
    """Yield place and width of each run of days that have it."""
    place = 0
    for wanted, group in groupby(map(has, days)):
        width = len(list(group)) * CELL
        if wanted:
            yield place, width
        place += width


def _path(name: str, parts: Sequence[str]) -> str:
    return f'<path class="{name}" d="{"".join(parts)}"/>' if parts else ""
