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
    require_kept(path.parent)


def require_kept(above: Path) -> None:
    """Check that nobody else can put something in the place of what this user makes in the folder ``above``.

    Its owner can, sticky bit or not, and without that bit (/tmp has it) all who may write there. That members
    of the user's own group may write to the user's own folder is some distributions' umask.

    Raises PermissionError; OSError where it cannot be looked at.
    """
    found = above.stat()
    ours = not _is_another_users(found)
    others = stat.S_IWOTH if ours else _OTHERS_WRITE
    if (ours or found.st_uid == 0) and (found.st_mode & stat.S_ISVTX or not found.st_mode & others):
        return
    raise PermissionError(f"{above} may be changed by other users")


def _is_another_users(found: os.stat_result) -> bool:
    return found.st_uid != os.geteuid()
