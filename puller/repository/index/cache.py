"""The hints that a host keeps of a repository between runs: a large file, and a small one of what is newer.

Nothing here is needed: whatever is missing or damaged is read again from the store. Each file says by itself
which index objects it was made of, and takes its predecessor's place in one step. So processes that use one
folder at once do not wait for each other, and of two that write, the later one wins.
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
from puller.units import MIB

BUDGET = 256 * MIB
"""Bytes that a host keeps of the index of one repository, if nothing else is said."""

LEAST_BUDGET = MIB

_MAIN, _NEWER = "main", "newer"
_READERS = 3
_SMALL, _SHARE = 1 << 16, 8
"""Rows, or one in so many of those in the large file, up to which others stay in the small one."""

_STALE = 86400.0
"""Seconds after which nobody is writing a file any more."""

Read = Callable[[ObjectInfo, float], IndexPart | None]
"""Reads an index object: its packs, and a share of its rows. Called in several threads at once."""


def load_hints(
    repository_id: bytes, listed: Iterable[ObjectInfo], read: Read, budget: int
) -> tuple[HintFile, ...]:
    """Hints of what the ``listed`` index objects say, in ``budget`` bytes.

    A folder that cannot be used is no error: then they are written into a temporary one; and if there is no
    room for that either, there are none. Raises what ``read`` raises.
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
    """One folder brought up to date with the ``listed`` index objects, by name."""

    folder: Path
    repository_id: bytes
    listed: Mapping[str, ObjectInfo]
    read: Read
    budget: int

    def run(self) -> tuple[HintFile, ...]:
        """The files, after what is new has been read. Raises OSError, DamagedData."""
        main, newer = self._open(_MAIN), self._open(_NEWER)
        room = self.budget // 4 // ROW  # packs have as much, and the successor of a file takes that once more
        shift = (max(0, self._rows(self.listed) - 1) // room).bit_length()
        if main is not None and main.shift == shift + 1:  # not worth reading all of it again
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
        """About how many rows index objects have, or a few more: most of each is rows."""
        return sum(self.listed[name].size for name in names) // ROW

    def _most_beside(self, main: HintFile) -> int:
        """Rows that may stay in the small file; none if a quarter of the large one, or more, has vanished."""
        is_sound = 4 * int(main.kept(self.listed).sum()) >= 3 * main.packs
        return max(_SMALL, main.rows // _SHARE) if is_sound else -1

    def _write(self, name: str, shift: int, files: Sequence[HintFile], fresh: Iterable[str]) -> HintFile:
        """Put what ``files`` still rightly say, and what is ``fresh``, into the place of ``name``."""
        for left in self.folder.glob("*.new"):  # by a process that was killed
            if left.stat().st_mtime < time.time() - _STALE:
                left.unlink(missing_ok=True)
        descriptor, path = tempfile.mkstemp(".new", dir=self.folder)
        try:
            with os.fdopen(descriptor, "wb") as target:
                writer = HintWriter(target, shift, self.budget // 4)
                for old in files:
                    writer.take(old, self.listed)
                # By age: what a run wrote stays together, and a pack that it wrote next follows.
                self._gather(writer, sorted(fresh, key=lambda key: self.listed[key].modified), 0.5**shift)
                writer.finish(self.repository_id)
            file = HintFile(Path(path), self.repository_id)
            file.path = Path(path).rename(self.folder / name)
        except BaseException:
            Path(path).unlink(missing_ok=True)
            raise
        return file

    def _gather(self, writer: HintWriter, names: Sequence[str], share: float) -> None:
        # The waits of ``read`` belong to the scope of who gave it.
        found = each(CancelScope(), lambda _, key: self.read(self.listed[key], share), names, _READERS)
        with closing(found):
            for name, part in zip(names, found, strict=True):
                if part is not None:
                    writer.add(name, part)
