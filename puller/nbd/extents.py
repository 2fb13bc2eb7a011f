"""Arithmetic on ascending streams of extents.

Everything here is a generator that holds an extent or two, or one bounded group: a disk of 4 TiB with
a million extents costs no more memory than an empty one.

Drawings use ``D`` for data, ``Z`` for bytes that read as zero, ``#`` for dirty and ``.`` for what the
stream does not mention; ``|`` marks chunk boundaries.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from puller.units import CHUNK, Extent, Kind


def merged(extents: Iterable[Extent]) -> Iterator[Extent]:
    """Join neighbours of equal kind that touch or overlap::

        in   DDD DD ZZ  Z      in   DDDD
               ^ touching             DDDD
        out  DDDDD ZZ  Z       out  DDDDDD

    The input ascends by offset; extents of different kinds must not overlap.
    """
    stream = iter(extents)
    held = next(stream, None)
    if held is None:
        return
    for extent in stream:
        if extent.kind is held.kind and extent.offset <= held.end:
            held = Extent(held.offset, max(held.end, extent.end) - held.offset, held.kind)
        else:
            yield held
            held = extent
    yield held


def clipped(extents: Iterable[Extent], start: int, end: int) -> Iterator[Extent]:
    """Keep the parts in the range from ``start`` up to ``end``, and stop reading the stream there::

    in     DDDDDDZZZZZZ..DDDD
    range     [        )
    out       DDDZZZZZZ
    """
    for extent in extents:
        if extent.offset >= end:
            return
        first, last = max(extent.offset, start), min(extent.end, end)
        if first < last:
            yield Extent(first, last - first, extent.kind)


def overlaid(dirty: Iterable[Extent], allocation: Iterable[Extent]) -> Iterator[Extent]:
    """Give each dirty byte its kind in ``allocation``::

        dirty       ..#######..#####....##
        allocation  DDDDDDZZZZZZZZDDDDD...
        out         ..DDDDZZZ..ZZZDD....DD

    Dirty zeros stay, as zero extents, because they are changes too. A dirty byte that the allocation does not
    mention counts as data, because reading it is always correct. The kind of a dirty extent is ignored.
    """
    stream = iter(allocation)
    known = next(stream, None)
    for changed in dirty:
        at = changed.offset
        while known is not None and at < changed.end:
            if known.end <= at:
                known = next(stream, None)
                continue
            piece = _piece(at, changed.end, known)
            yield piece
            at = piece.end
        if at < changed.end:
            yield Extent(at, changed.end - at, Kind.DATA)


def _piece(start: int, end: int, known: Extent) -> Extent:
    """Return the first part of the range that is of one kind; ``known`` ends after ``start``."""
    if start < known.offset:
        return Extent(start, min(end, known.offset) - start, Kind.DATA)
    return Extent(start, min(end, known.end) - start, known.kind)


def widened(extents: Iterable[Extent], size: int) -> Iterator[Extent]:
    """Grow each extent to whole chunks of a disk of ``size`` bytes, and join extents that then touch::

        in   |..DD|....|D..D|DD..|
        out  |DDDD|....|DDDDDDDDD|

    All extents must be of one kind.
    """
    return merged(_whole_chunks(extent.offset, extent.end, size, extent.kind) for extent in extents)


def rounded(extents: Iterable[Extent], size: int) -> Iterator[Extent]:
    """Round to whole chunks, zero only if every byte of the chunk is a zero of the stream::

        in   |ZZZZ|ZZ..|....|DZZZ|ZZZZ|ZZ   (a disk that ends within its last chunk)
        out  |ZZZZ|DDDD|....|DDDD|ZZZZ|ZZ

    Any other chunk with a byte in the stream becomes data as a whole. Chunks without one are omitted. The
    last chunk is cut at ``size``.
    """
    return merged(piece for extent in merged(extents) for piece in _rounded_pieces(extent, size))


def _rounded_pieces(extent: Extent, size: int) -> Iterator[Extent]:
    """Cut one merged extent; a chunk that it shares with others is yielded as data, maybe repeatedly."""
    first = -(-extent.offset // CHUNK) * CHUNK
    last = extent.end if extent.end == size else extent.end // CHUNK * CHUNK
    if extent.kind is Kind.DATA or first >= last:
        yield _whole_chunks(extent.offset, extent.end, size, Kind.DATA)
        return
    if extent.offset < first:
        yield _whole_chunks(extent.offset, first, size, Kind.DATA)
    yield Extent(first, last - first, Kind.ZERO)
    if last < extent.end:
        yield _whole_chunks(last, extent.end, size, Kind.DATA)


def _whole_chunks(start: int, end: int, size: int, kind: Kind) -> Extent:
    first = start // CHUNK * CHUNK
    return Extent(first, min(-(-end // CHUNK) * CHUNK, size) - first, kind)


def split(extents: Iterable[Extent], step: int) -> Iterator[Extent]:
    """Cut at every multiple of ``step`` bytes of the disk::

    step   |       |       |
    in       DDDDDDDDDD ZZ
    out      DDDDDD|DDDD ZZ
    """
    for extent in extents:
        at = extent.offset
        while at < extent.end:
            end = min(extent.end, (at // step + 1) * step)
            yield Extent(at, end - at, extent.kind)
            at = end


def grouped(ranges: Iterable[Extent], *, gap: int, span: int, most: int) -> Iterator[list[Extent]]:
    """Gather ranges whose block status is to be asked for together::

        ranges   #  ##   #                  ###########
        span     |                |                |
        groups  [#  ##   #]                [#######][##]

    Between two ranges of a group are at most ``gap`` bytes, and no group has more than ``most`` ranges or
    crosses a multiple of ``span`` bytes; longer ranges are cut there.
    """
    group: list[Extent] = []
    for piece in split(ranges, span):
        if group and (
            piece.offset - group[-1].end > gap
            or piece.offset // span != group[0].offset // span
            or len(group) == most
        ):
            yield group
            group = []
        group.append(piece)
    if group:
        yield group
