"""Parts of a disk that cannot be read, and the rest of their maps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from puller.errors import DamagedData
from puller.repository.format.pages import Refs, Root, chunks_in_page
from puller.repository.reading.mapreader import MapReader
from puller.units import CHUNK, PAGE_CHUNKS

_PAGES_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Damage:
    """``length`` bytes of a disk from ``offset`` cannot be read; ``reason`` names the faulty object."""

    offset: int
    length: int
    reason: str


def merge_damage(damage: list[Damage]) -> list[Damage]:
    """Merge neighbouring damage of one reason into one range, in disk order."""
    merged: list[Damage] = []
    for item in sorted(damage, key=lambda item: item.offset):
        last = merged[-1] if merged else None
        if last and last.offset + last.length == item.offset and last.reason == item.reason:
            merged[-1] = Damage(last.offset, last.length + item.length, last.reason)
        else:
            merged.append(item)
    return merged


def read_pages(
    maps: MapReader, root: Root, numbers: Sequence[int], damage: list[Damage]
) -> Iterator[tuple[int, Refs]]:
    """Yield the pages with these numbers; unreadable ones as zeros, noted in ``damage``."""
    for start in range(0, len(numbers), _PAGES_AT_ONCE):
        batch = numbers[start : start + _PAGES_AT_ONCE]
        try:
            found = maps.pages(root, batch)
        except DamagedData:
            found = {number: _page(maps, root, number, damage) for number in batch}
        yield from found.items()


def _page(maps: MapReader, root: Root, number: int, damage: list[Damage]) -> Refs:
    try:
        return maps.pages(root, [number])[number]
    except DamagedData as error:
        start = number * PAGE_CHUNKS * CHUNK
        length = min(PAGE_CHUNKS * CHUNK, root.size - start)
        damage.append(Damage(start, length, error.message))
        return Refs.zeros(chunks_in_page(root.size, number))
