"""The directory tree of a guest, as the mounted file systems have it."""

from __future__ import annotations

import fnmatch
import posixpath
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from puller.errors import FileUnreadable, NoSuchFile, UsageError
from puller.events import Notice, Observer
from puller.recovery.files.appliance import WALK, Appliance, Refusal
from puller.recovery.files.entry import FileEntry, entry_of
from puller.units import MIB

PIECE = 2 * MIB
"""Bytes in a read. A message of libguestfs has at most 4 MiB."""

_AT_ONCE = 500
"""Names in a call: the answer has room for much more."""


class GuestTree:
    """Reads files and directories of the point ``point``. Paths are absolute, in the guest."""

    def __init__(self, appliance: Appliance, point: str, observer: Observer) -> None:
        self._appliance = appliance
        self._point = point
        self._observer = observer

    def entry(self, path: str) -> FileEntry:
        """The entry at ``path``, a symlink itself. Raises NoSuchFile."""
        path = normal(path)
        above, name = posixpath.split(path)
        if not name:
            return entry_of("/", self._ask(path, "lstatns", "/"), None)
        if not self._ask(above, "is_dir", above, followsymlinks=True):
            raise self._absent(path)
        found = list(self._looked_at(above, [name]))
        if not found:
            raise self._absent(path)
        return found[0]

    def followed(self, path: str) -> FileEntry:
        """The entry at ``path``, or of the file or directory to which a symlink leads. Raises NoSuchFile."""
        entry = self.entry(path)
        if entry.type != "symlink" or not (self.is_directory(entry.path) or self._is_file(entry.path)):
            return entry
        return entry_of(entry.path, self._ask(path, "statns", entry.path), None)

    def listing(self, path: str) -> list[FileEntry]:
        """The entries of a directory, or the entry of what is none, by name."""
        path = normal(path)
        if not self.is_directory(path):
            return [self.entry(path)]
        return sorted(self.entries(path), key=lambda entry: entry.path)

    def entries(self, path: str) -> Iterator[FileEntry]:
        """The entries of the directory ``path``, without those whose names cannot be passed on."""
        answer = self._appliance.temporary_file()
        self._ask(path, "ls0", path, str(answer))
        names, lost = readable(answer.read_bytes())
        self._report(path, lost)
        yield from self._looked_at(path, [name for name in names if is_plain(name)])

    def is_directory(self, path: str) -> bool:
        """Return whether ``path`` is a directory or a symlink to one."""
        return bool(self._ask(path, "is_dir", path, followsymlinks=True))

    def _is_file(self, path: str) -> bool:
        return bool(self._ask(path, "is_file", path, followsymlinks=True))

    def read(self, path: str) -> Iterator[bytes]:
        """The content of a regular file, or of the one that a symlink leads to. Raises NoSuchFile."""
        path = normal(path)
        if not self._is_file(path):
            entry = self.entry(path)
            raise UsageError(
                f"{path} in point {self._point} is not a regular file but a {entry.type}",
                advice="Name a file, or use 'puller ls' for a directory.",
            )
        size = self._ask(path, "statns", path)["st_size"]
        return self.pieces(path, size)

    def pieces(self, path: str, size: int) -> Iterator[bytes]:
        """The content of a file of ``size`` bytes."""
        offset = 0
        while offset < size:
            piece: bytes = self._ask(path, "pread", path, min(PIECE, size - offset), offset)
            if not piece:
                raise FileUnreadable(f"cannot read {path} of point {self._point}: it ends at {offset}")
            yield piece
            offset += len(piece)

    def attributes(self, path: str) -> dict[str, bytes]:
        """The extended attributes of a file or directory; none where the file system knows of none."""
        try:
            found = self._appliance.call("lgetxattrs", path)
        except Refusal:
            return {}
        return {item["attrname"]: item["attrval"] for item in found}

    def find(self, pattern: str) -> Iterator[FileEntry]:
        """What matches the shell pattern ``pattern``: its name, or its path if ``pattern`` has a slash."""
        answer = self._appliance.temporary_file()
        self._ask("/", "find0", "/", str(answer), limit=WALK)
        names, lost = readable(answer.read_bytes())
        self._report("/", lost)
        paths = sorted(f"/{name}" for name in names if matches(pattern, f"/{name}"))
        for above, members in groupby(paths, key=posixpath.dirname):
            yield from self._looked_at(above, [posixpath.basename(path) for path in members])

    def _looked_at(self, above: str, names: Sequence[str]) -> Iterator[FileEntry]:
        """The entries ``names`` of the directory ``above``; none for what is not there."""
        for start in range(0, len(names), _AT_ONCE):
            batch = list(names[start : start + _AT_ONCE])
            found = self._ask(above, "lstatnslist", above, batch)
            for name, state, target in zip(batch, found, self._targets(above, batch), strict=True):
                if state["st_ino"] >= 0:  # -1 of what is gone
                    yield entry_of(posixpath.join(above, name), state, target)

    def _targets(self, above: str, names: list[str]) -> list[str]:
        """Where each of ``names`` leads: empty for what is no symlink, and for a target that is not UTF-8."""
        try:
            return list(self._appliance.call("readlinklist", above, names))
        except Refusal:
            return [self._target(posixpath.join(above, name)) for name in names]

    def _target(self, path: str) -> str:
        try:
            return str(self._appliance.call("readlink", path))
        except Refusal:
            return ""

    def _report(self, path: str, lost: int) -> None:
        if lost:
            text = f"{lost} names below {path} are not UTF-8 and are left out: 'puller mount' shows them"
            self._observer(Notice(self._point, text))

    def _absent(self, path: str) -> NoSuchFile:
        return NoSuchFile(f"no file {path} in point {self._point}")

    def _ask(self, path: str, method: str, *arguments: object, **named: Any) -> Any:
        try:
            return self._appliance.call(method, *arguments, **named)
        except Refusal as error:
            raise FileUnreadable(f"cannot read {path} of point {self._point}: {error}") from error


def normal(path: str) -> str:
    """``path`` without ``.``, ``..`` and needless slashes. Raises UsageError if it is not absolute."""
    if not path.startswith("/") or "\0" in path:
        raise UsageError(
            f"{path!r} is not an absolute path in the guest", advice="Begin the path with a slash."
        )
    return posixpath.normpath("/" + path.lstrip("/"))


def is_plain(name: str) -> bool:
    """Return whether ``name`` can be that of an entry; the guest's file system may claim others."""
    return name not in {"", ".", ".."} and "/" not in name


def matches(pattern: str, path: str) -> bool:
    """Return whether a path, or its last name if ``pattern`` has no slash, matches."""
    return fnmatch.fnmatchcase(path if "/" in pattern else posixpath.basename(path), pattern)


def readable(names: bytes) -> tuple[list[str], int]:
    """The UTF-8 ones of ``names``, each of which ends with a zero byte, and how many others there are."""
    found: list[str] = []
    lost = 0
    for name in names.split(b"\0")[:-1]:
        try:
            found.append(name.decode())
        except UnicodeDecodeError:
            lost += 1
    return found, lost
