"""The hints that a host keeps of one repository between runs: a large file, and a small one of what is newer.

Nothing here is needed: whatever is missing or damaged is read again from the store. Each file says by itself which
index objects it holds, and takes the place of its predecessor in one step. So processes that use one folder at
once do not wait for each other, and of two that write, the later one wins.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from puller.errors import DamagedData
from puller.host.folders import cache_directory, temporary_directory
from puller.host.privatefolder import make_private
from puller.repository.format.footer import ID
from puller.repository.format.index import IndexPart
from puller.repository.index.hints import ROW, HintFile, HintWriter
from puller.store.base import ObjectInfo
from puller.store.parallel import each
from puller.units import MIB

BUDGET = 256 * MIB
"""Bytes that a host keeps of the index of one repository."""

LEAST_BUDGET = MIB

_READERS = 4
_MAIN, _NEWER = "main", "newer"
_NEWER_SHARE = 8
"""The small file is merged into the large one when it would have more than one of so many rows."""

_SMALL = 1 << 16
"""Rows that are not worth a merge."""

_STALE = 86400.0
"""Seconds after which a file that was not finished is one that a killed process left."""

_MARGIN = 2
"""How many times a sample is to be half of what there is room for, before all is read again."""

Read = Callable[[ObjectInfo, float], IndexPart | None]
"""Reads an index object: its packs, and a share of its rows. Called in several threads at once."""


def identity(info: ObjectInfo) -> bytes:
    """16 bytes that stand for one version of an index object."""
    return blake3(f"{info.key}\0{info.size}\0{info.etag}".encode()).digest(ID)


def load_hints(
    repository_id: bytes, listed: Iterable[ObjectInfo], read: Read, budget: int
) -> tuple[HintFile, ...]:
    """Hints of what the ``listed`` index objects say.

    A folder that cannot be used is no error: then they are written into a temporary one; and if there is no room
    for that either, there are none. Raises what ``read`` raises.
    """
    by_identity = {identity(info): info for info in listed}
    unusable = suppress(OSError, DamagedData)
    with unusable:
        folder = cache_directory(repository_id.hex())
        make_private(folder)
        return _Refresh(folder, repository_id, by_identity, read, budget).run()
    with (
        unusable,
        tempfile.TemporaryDirectory(
            prefix="puller-index-", dir=temporary_directory(), ignore_cleanup_errors=True
        ) as path,
    ):
        return _Refresh(Path(path), repository_id, by_identity, read, budget).run()
    return ()


@dataclass(frozen=True)
class _Refresh:
    """One folder brought up to date with the ``listed`` index objects, by identity."""

    folder: Path
    repository_id: bytes
    listed: Mapping[bytes, ObjectInfo]
    read: Read
    budget: int

    @property
    def _shift(self) -> int:
        """The sample that fits, by the sizes of the index objects."""
        rows = sum(info.size for info in self.listed.values()) // ROW
        return (max(0, rows - 1) // (self.budget // 4 // ROW)).bit_length()

    def run(self) -> tuple[HintFile, ...]:
        """The files, after what is new has been read. Raises OSError, DamagedData."""
        main, newer = self._open(_MAIN), self._open(_NEWER)
        shift = self._shift if main is None else max(self._shift, main.shift)
        if shift > self._shift + _MARGIN:  # much of what was there is gone, or there is more room
            shift, main = self._shift, None
        files = [file for file in (main, newer) if main and file and file.shift <= shift]
        fresh = self.listed.keys() - {source for file in files for source, _ in file.sources}
        rows = sum(self.listed[source].size for source in fresh) // ROW >> shift
        rows += sum(file.rows for file in files[1:])
        if main is None or shift > main.shift or self._is_wasteful(main):
            return (self._write(_MAIN, shift, files, fresh),)
        if rows > max(_SMALL, main.rows // _NEWER_SHARE):
            return (self._write(_MAIN, shift, files, fresh),)
        return (main, self._write(_NEWER, shift, files[1:], fresh)) if fresh else tuple(files)

    def _open(self, name: str) -> HintFile | None:
        try:
            return HintFile(self.folder / name, self.repository_id)
        except (FileNotFoundError, DamagedData):
            return None

    def _is_wasteful(self, file: HintFile) -> bool:
        """Whether a quarter of the packs, or more, is of index objects that have vanished."""
        return 4 * int(file.kept(self.listed).sum()) < 3 * file.packs

    def _write(self, name: str, shift: int, files: Sequence[HintFile], fresh: Iterable[bytes]) -> HintFile:
        """Put what ``files`` still rightly say, and what is ``fresh``, into the place of ``name``."""
        self._sweep()
        descriptor, made = tempfile.mkstemp(".new", dir=self.folder)
        try:
            with os.fdopen(descriptor, "wb") as target:
                writer = HintWriter(target, shift, self.budget // 4)
                for old in files:
                    writer.take(old, self.listed)
                self._gather(writer, fresh, 0.5**shift)
                writer.finish(self.repository_id)
            file = HintFile(Path(made), self.repository_id)
            file.path = Path(made).rename(self.folder / name)
        except BaseException:
            Path(made).unlink(missing_ok=True)
            raise
        if name == _MAIN:
            (self.folder / _NEWER).unlink(missing_ok=True)
        return file

    def _gather(self, writer: HintWriter, fresh: Iterable[bytes], share: float) -> None:
        names = sorted(fresh)
        with closing(each(lambda name: self.read(self.listed[name], share), names, _READERS)) as found:
            for name, part in zip(names, found, strict=True):
                if part is not None:
                    writer.add(name, part)

    def _sweep(self) -> None:
        for path in self.folder.glob("*.new"):
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _STALE:
                    path.unlink()
