"""A host's hints of a repository between runs: a large file, and a small one with newer entries.

The cache can be lost: missing or damaged parts are read again from the store. Each file names the index
objects in it, and replaces its predecessor atomically. So processes that use one directory at once do not
wait for each other, and of two that write, the later one wins.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from puller.cancelling import CancelScope
from puller.errors import DamagedData
from puller.host.folders import cache_directory, temporary_directory
from puller.host.privatefolder import make_private
from puller.repository.format.index import IndexPart
from puller.repository.index.hints import ROW, HintFile, HintWriter
from puller.store.base import ObjectInfo
from puller.store.parallel import each

_MAIN, _NEWER = "main", "newer"
_READERS = 3
_SMALL, _SHARE = 1 << 16, 8
"""Rows, or a share of the rows of the large file, up to which others stay in the small file."""

_STALE = 86400.0
"""Seconds after which a file that is being written counts as abandoned."""

Read = Callable[[ObjectInfo, float], IndexPart | None]
"""Reads an index object: its packs, and a share of its rows. Called in several threads at once."""


def load_hints(
    repository_id: bytes, listed: Iterable[ObjectInfo], read: Read, budget: int
) -> tuple[HintFile, ...]:
    """Return hints from the ``listed`` index objects, in ``budget`` bytes.

    If the directory cannot be used, they are written into a temporary one; without space for that either,
    there are none. Raises the errors of ``read``.
    """
    named = {info.key: info for info in listed}
    unusable = suppress(OSError, DamagedData)
    with unusable:
        folder = cache_directory(repository_id.hex())
        make_private(folder)
        refresh = _Refresh(folder, repository_id, named, read, budget)
        try:
            return refresh.run()
        except DamagedData:  # in rows, which are only met when they are copied
            refresh.clear()
            return refresh.run()
    with unusable, tempfile.TemporaryDirectory("", "puller-index-", temporary_directory()) as path:
        return _Refresh(Path(path), repository_id, named, read, budget).run()
    return ()


@dataclass(frozen=True)
class _Refresh:
    """Update of one directory from the ``listed`` index objects, by name."""

    folder: Path
    repository_id: bytes
    listed: Mapping[str, ObjectInfo]
    read: Read
    budget: int

    def run(self) -> tuple[HintFile, ...]:
        """Read new index objects and return the files. Raises OSError, DamagedData."""
        main, newer = self._open(_MAIN), self._open(_NEWER)
        room = self.budget // 4 // ROW  # packs have as much, and the successor of a file needs that once more
        shift = (max(0, self._rows(self.listed) - 1) // room).bit_length()
        if main is not None and main.shift == shift + 1:  # not worth reading the large file again
            shift = main.shift
        files = [file for file in (main, newer) if file is not None and file.shift <= shift]
        fresh = self.listed.keys() - {source for file in files for source, _ in file.sources}
        added = (self._rows(fresh) >> shift) + sum(file.rows for file in files[1:])
        if main is not None and main.shift == shift and added <= self._most_beside(main):
            return (main, self._write(_NEWER, shift, files[1:], fresh)) if fresh else tuple(files)
        file = self._write(_MAIN, shift, files, fresh)
        (self.folder / _NEWER).unlink(missing_ok=True)
        return (file,)

    def clear(self) -> None:
        """Begin with nothing the next time."""
        for name in (_MAIN, _NEWER):
            (self.folder / name).unlink(missing_ok=True)

    def _open(self, name: str) -> HintFile | None:
        try:
            return HintFile(self.folder / name, self.repository_id)
        except (FileNotFoundError, DamagedData):
            return None

    def _rows(self, names: Iterable[str]) -> int:
        """Return an estimate, slightly high, of the rows in index objects, which consist mostly of rows."""
        return sum(self.listed[name].size for name in names) // ROW

    def _most_beside(self, main: HintFile) -> int:
        """Return the rows that may stay in the small file; none if a quarter of the large one is outdated."""
        is_sound = 4 * int(main.kept(self.listed).sum()) >= 3 * main.packs
        return max(_SMALL, main.rows // _SHARE) if is_sound else -1

    def _write(self, name: str, shift: int, files: Sequence[HintFile], fresh: Iterable[str]) -> HintFile:
        """Replace ``name`` by the entries of ``files`` that are still valid, and those in ``fresh``."""
        for left in self.folder.glob("*.new"):  # left by a process that was killed
            if left.stat().st_mtime < time.time() - _STALE:
                left.unlink(missing_ok=True)
        descriptor, path = tempfile.mkstemp(".new", dir=self.folder)
        try:
            with os.fdopen(descriptor, "wb") as target:
                writer = HintWriter(target, shift, self.budget // 4)
                for old in files:
                    writer.take(old, self.listed)
                # By age: packs of a run stay together, in the order in which it wrote them.
                self._gather(writer, sorted(fresh, key=lambda key: self.listed[key].modified), 0.5**shift)
                writer.finish(self.repository_id)
            file = HintFile(Path(path), self.repository_id)
            file.path = Path(path).rename(self.folder / name)
        except BaseException:
            Path(path).unlink(missing_ok=True)
            raise
        return file

    def _gather(self, writer: HintWriter, names: Sequence[str], share: float) -> None:
        # The waits of ``read`` belong to its owner's scope.
        found = each(CancelScope(), lambda _, key: self.read(self.listed[key], share), names, _READERS)
        with closing(found):
            for name, part in zip(names, found, strict=True):
                if part is not None:
                    writer.add(name, part)
