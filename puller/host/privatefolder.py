"""A folder that nobody but this user may change: what lies in it is believed, or locks others out."""

from __future__ import annotations

import os
import stat
from pathlib import Path

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def make_private(path: Path) -> None:
    """Make the folder ``path``, with what is missing above it, unless it is there.

    Raises PermissionError if it is another user's, may be written by others, or could be exchanged by them;
    OSError where it cannot be made.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode) and _is_another_users(found):
        raise PermissionError(f"{path} is a link that another user has made")
    found = path.stat()
    if _is_another_users(found):
        raise PermissionError(f"{path} belongs to another user")
    if found.st_mode & _OTHERS_WRITE:
        raise PermissionError(f"{path} may be written by others")
    _require_kept(path.parent)


def _require_kept(above: Path) -> None:
    """Raise unless what is ours in ``above`` is safe from others who may write there, as in /tmp."""
    found = above.stat()
    if found.st_mode & stat.S_ISVTX:
        return
    if found.st_mode & stat.S_IWOTH or (found.st_uid != 0 and _is_another_users(found)):
        raise PermissionError(f"{above} may be changed by other users")


def _is_another_users(found: os.stat_result) -> bool:
    return found.st_uid != os.geteuid()
