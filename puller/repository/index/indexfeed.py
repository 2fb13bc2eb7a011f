"""A cache of the index brought up to date with the index objects of the store.

Only objects that are new are fetched. Their rows are sorted in runs of bounded size, in files without a
name, and merged once into a segment together with those older ones that are not much larger.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
from blake3 import blake3

from puller.cancelling import CancelScope
from puller.errors import DamagedData, ObjectNotFound
from puller.repository.format import index
from puller.repository.format.footer import DEAD, ID
from puller.repository.format.index import IndexedPack
from puller.repository.format.sealing import BOX_LIMIT, Boxes, BoxKind
from puller.repository.index.catalogue import Catalogue
from puller.repository.index.index_file import IndexFile
from puller.repository.index.indexcache import CacheFolder, Known, unnamed_segment
from puller.repository.index.merging import merge, untouched
from puller.repository.index.rows import Rows
from puller.store.base import ObjectInfo, Store
from puller.store.parallel import each

INDEX_PREFIX = "index/"

FETCHERS = 3
"""Index objects fetched at once, about 2 MiB each; twice as many may wait in memory."""

RUN = 1 << 19
"""Rows that are sorted in memory: 11 MiB, and a few times that while it is done."""

RUNS = 128
"""Runs that are kept before they are merged into one: each has its file open."""

Read = Callable[[str], Sequence[IndexedPack] | None]


def identity(info: ObjectInfo) -> bytes:
    """16 bytes that stand for one version of an index object."""
    return blake3(f"{info.key}\0{info.size}\0{info.etag}".encode()).digest(ID)


def read_index(store: Store, boxes: Boxes, key: str) -> list[IndexedPack] | None:
    """What an index object says. None if it is damaged or gone: the index is never needed."""
    try:
        box = store.get(key, max_size=BOX_LIMIT)
        return list(index.decode(boxes.unpack(BoxKind.INDEX, key, box)))
    except (DamagedData, ObjectNotFound):
        return None


def refresh(folder: CacheFolder, listed: Mapping[bytes, str], read: Read) -> Known:
    """What the ``listed`` index objects, by identity, say; ``read`` is called in several threads at once.

    What ``read`` raises is raised here. Raises OSError where the folder does not serve, and DamagedData
    where it does not give back what was just written.
    """
    known = folder.load()
    try:
        fresh = _updated(folder, known, listed, read)
    except DamagedData:
        fresh = _updated(folder, Known(Catalogue.empty(), (), known.stamp), listed, read)
    if fresh.catalogue is not known.catalogue:
        with suppress(OSError):  # it serves this run all the same
            fresh = folder.publish(fresh)
    return fresh


def _updated(folder: CacheFolder, known: Known, listed: Mapping[bytes, str], read: Read) -> Known:
    catalogue = known.catalogue.keeping(listed.keys())
    taken = set(catalogue.sources)
    intake = _Intake(folder.path, len(catalogue))
    fresh = {source: key for source, key in listed.items() if source not in taken}
    with closing(_read_all(fresh, read)) as found:
        for source, packs in found:
            intake.add(source, packs)
    runs = intake.finish()
    return _settled(folder, replace(known, catalogue=catalogue.extended(intake.found)), runs)


def _read_all(
    keys: Mapping[bytes, str], read: Read
) -> Generator[tuple[bytes, Sequence[IndexedPack]], None, None]:
    """The index objects that can be read, in the order of ``keys``, a few read ahead."""
    # The waits of ``read`` belong to the scope of who gave it.
    with closing(each(CancelScope(), lambda _, key: read(key), keys.values(), FETCHERS)) as found:
        for source, packs in zip(keys, found, strict=True):
            if packs is not None:
                yield source, packs


class _Intake:
    """Gathers the rows of new index objects. ``found`` are their packs, as the catalogue wants them."""

    def __init__(self, folder: Path, first: int) -> None:
        self.found: dict[bytes, list[tuple[bytes, int]]] = {}
        self._folder = folder
        self._number = first
        self._parts: list[Rows] = []
        self._rows = 0
        self._runs: list[IndexFile] = []

    def add(self, source: bytes, packs: Sequence[IndexedPack]) -> None:
        """Take in what one index object says. Dead slots are left out."""
        named = self.found[source] = []
        for pack in packs:
            alive = np.flatnonzero(pack.footer.flags & DEAD == 0)
            numbers = np.full(len(alive), self._number, np.uint32)
            self._parts.append(Rows(pack.footer.ids[alive], numbers, alive.astype(np.uint16)))
            named.append((pack.pack_id, len(alive)))
            self._number += 1
            self._rows += len(alive)
            if self._rows >= RUN:
                self._put_run()

    def _put_run(self) -> None:
        rows = Rows.join(self._parts).in_order()
        self._parts, self._rows = [], 0
        self._write_run([rows])
        if len(self._runs) == RUNS:
            runs, self._runs = self._runs, []
            self._write_run(merge(runs, None))

    def _write_run(self, parts: Iterable[Rows]) -> None:
        # Nothing is looked up in it, so the filter may be of the smallest size.
        self._runs.append(unnamed_segment(self._folder, parts, 0))

    def finish(self) -> list[IndexFile]:
        """All rows, as sorted runs."""
        if self._rows:
            self._put_run()
        return self._runs


def _settled(folder: CacheFolder, known: Known, runs: Sequence[IndexFile]) -> Known:
    """Merge ``runs`` with the smaller ones of the segments, or everything if much of it is void."""
    fresh = sum(map(len, runs))
    if known.catalogue.is_wasteful(known.rows + fresh):
        catalogue, numbers = known.catalogue.compacted()
        kept = 0
    else:
        catalogue, numbers = known.catalogue, known.catalogue.kept_numbers()
        kept = (
            untouched([len(segment) for segment in known.segments], fresh) if fresh else len(known.segments)
        )
    old = [*known.segments[kept:], *runs]
    if not old:
        return replace(known, catalogue=catalogue)
    merged = folder.write(merge(old, numbers), sum(map(len, old)))
    segments = tuple(segment for segment in (*known.segments[:kept], merged) if len(segment))
    names = tuple(segment.name for segment in segments)
    return replace(known, catalogue=replace(catalogue, segments=names), segments=segments)
