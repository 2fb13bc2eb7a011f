"""An entry of a directory of a guest."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

_TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFBLK: "block",
    stat.S_IFCHR: "character",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file, directory or other thing at ``path`` in a guest.

    Attributes:
        path: Its absolute path in the guest.
        type: ``file``, ``directory``, ``symlink``, ``block``, ``character``, ``fifo`` or ``socket``.
        size: Its size in bytes.
        mode: Its permission bits, with setuid, setgid and sticky: ``mode & 0o7777`` of stat(2).
        uid: Its owner.
        gid: Its group.
        mtime_ns: When its content was changed last, in nanoseconds since 1970.
        target: Where a symlink leads; empty if that is not UTF-8, None for others.
        links: How many names it has.
        inode: What all names of a file have in common: device and number.
    """

    path: str
    type: str
    size: int
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    target: str | None
    links: int
    inode: tuple[int, int]

    @property
    def mtime(self) -> datetime:
        """When its content was changed last; to the microsecond, and within the calendar's bounds."""
        try:
            return _EPOCH + timedelta(microseconds=self.mtime_ns // 1000)
        except OverflowError:
            return (datetime.max if self.mtime_ns > 0 else datetime.min).replace(tzinfo=UTC)


def entry_of(path: str, found: Mapping[str, int], target: str | None) -> FileEntry:
    """The entry at ``path`` of which libguestfs's lstatns says ``found``."""
    mode = found["st_mode"]
    return FileEntry(
        path=path,
        type=_TYPES.get(stat.S_IFMT(mode), "unknown"),
        size=found["st_size"],
        mode=stat.S_IMODE(mode),
        uid=found["st_uid"],
        gid=found["st_gid"],
        mtime_ns=found["st_mtime_sec"] * 10**9 + found["st_mtime_nsec"],
        target=target if stat.S_ISLNK(mode) else None,
        links=found["st_nlink"],
        inode=(found["st_dev"], found["st_ino"]),
    )
