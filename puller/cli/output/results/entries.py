"""Entries of a guest's directories, as JSON and as lines like those of ls(1)."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from puller.cli.output.results.tables import table
from puller.cli.output.times import local, rfc3339

if TYPE_CHECKING:
    from puller.api.files import FileListing
    from puller.recovery.files.entry import FileEntry

_KINDS = {
    "file": stat.S_IFREG,
    "directory": stat.S_IFDIR,
    "symlink": stat.S_IFLNK,
    "block": stat.S_IFBLK,
    "character": stat.S_IFCHR,
    "fifo": stat.S_IFIFO,
    "socket": stat.S_IFSOCK,
}


def document(listing: FileListing) -> dict[str, Any]:
    """The listing in JSON."""
    return {
        "point": listing.point,
        "filesystems": dict(listing.filesystems),
        "entries": [_record(entry) for entry in listing.entries],
    }


def _record(entry: FileEntry) -> dict[str, Any]:
    record = {name: getattr(entry, name) for name in ("path", "type", "size", "mode", "uid", "gid")}
    link = {} if entry.target is None else {"target": entry.target}
    return {**record, "mtime": rfc3339(entry.mtime), **link}


def text(entries: Sequence[FileEntry], above: str = "") -> str:
    """Lines for people; names without the directory ``above`` in front."""
    if not entries:
        return ""
    rows = [
        [
            stat.filemode(_KINDS.get(entry.type, 0) | entry.mode),
            str(entry.uid),
            str(entry.gid),
            str(entry.size),
            local(entry.mtime),
            _name(entry, above),
        ]
        for entry in entries
    ]
    return table(["MODE", ">UID", ">GID", ">SIZE", "MODIFIED", "NAME"], rows)


def _name(entry: FileEntry, above: str) -> str:
    shown = entry.path.removeprefix(f"{above.rstrip('/')}/") if above else entry.path
    return shown if entry.target is None else f"{shown} -> {entry.target}"
