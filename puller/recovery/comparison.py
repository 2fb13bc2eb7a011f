"""A disk compared with a point by reading it: each chunk's id against the one that the point has there."""

from __future__ import annotations

from contextlib import closing

import numpy as np

from puller.errors import DamagedData
from puller.nbd.export import Export
from puller.nbd.extents import rounded
from puller.nbd.reader import read
from puller.pipeline.buffers import Batch, BufferPool
from puller.pipeline.readgate import OpenGate
from puller.repository.format.chunk_slot import content_id
from puller.repository.format.packname import ID
from puller.repository.reading.difference import Changes
from puller.repository.reading.image import DiskImage, Flags, Window
from puller.units import CHUNK, MIB, PAGE_CHUNKS, Extent, Kind, chunk_count

_ZEROS = bytes(CHUNK)

_BUFFERS = 6
_READ_AHEAD = 4 * MIB
"""Bytes in flight, as in a backup."""


def compare_contents(export: Export, image: DiskImage, id_key: bytes) -> tuple[Changes, int]:
    """Where the disk of ``export`` differs from ``image``, and how many bytes were read to know it.

    What lies behind the end of ``image`` is not looked at; what ``export`` lacks of it differs. What the
    point's damaged maps should tell differs too. Raises NbdError, DamagedData, StoreError.
    """
    changes = Changes(image.size)
    compared = 0
    with closing(BufferPool(_BUFFERS, MIB)) as pool:
        for window in image.windows():
            compared += _Comparison(window, image, id_key).run(export, pool, changes)
    return changes, compared


class _Comparison:
    """One window of the disk. ``_ids`` are the point's, zero bytes for zeros; ``_unlike`` is the outcome."""

    def __init__(self, window: Window, image: DiskImage, id_key: bytes) -> None:
        self._window = window
        self._id_key = id_key
        count = len(window.chosen)
        self._ids = np.zeros((count, ID), np.uint8)
        unknown = []
        for job in window.jobs:
            try:
                self._ids[job.chunks - window.first] = image.ids(job)
            except DamagedData:
                unknown.append(job.chunks - window.first)  # writing it will tell what is lost
        # Until it is looked at, what is stored differs from what is zero, and what is lost from everything.
        self._unlike: Flags = np.asarray(self._ids.any(axis=1))
        self._lost = np.zeros(count, np.bool_)
        for chunks in unknown:
            self._lost[chunks] = True
        for lost in window.damage:
            first = lost.offset // CHUNK - window.first
            self._lost[first : first + chunk_count(lost.length)] = True

    def run(self, export: Export, pool: BufferPool, changes: Changes) -> int:
        """Compare; return the bytes read."""
        end = min(self._window.end, export.size)
        whole = (
            [Extent(self._window.offset, end - self._window.offset, Kind.DATA)]
            if end > self._window.offset
            else []
        )
        compared = 0
        extents = rounded(export.allocation(whole), end)
        gate = OpenGate(_READ_AHEAD)
        with closing(read(export, extents, pool, gate=gate, planned=lambda extent: None)) as batches:
            for batch in batches:
                compared += batch.length
                self._look(batch)
                batch.release()
        differs = self._unlike | self._lost
        for start in range(0, len(differs), PAGE_CHUNKS):
            page = (self._window.first + start) // PAGE_CHUNKS
            changes.add(page, differs[start : start + PAGE_CHUNKS])
        return compared

    def _look(self, batch: Batch) -> None:
        for segment in batch.segments:
            for at in range(0, segment.length, CHUNK):
                content = batch.buffer.view[segment.position + at : segment.position + at + CHUNK]
                number = (segment.offset + at) // CHUNK - self._window.first
                self._unlike[number] = self._differs(number, content)

    def _differs(self, number: int, content: memoryview) -> bool:
        expected = self._ids[number].tobytes()
        if any(expected):
            return bool(content_id(self._id_key, content) != expected)
        return not _ZEROS.startswith(bytes(content))
