"""A directory that only this user may change, because puller trusts its content or locks by it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def make_private(path: Path) -> None:
    """Create the directory ``path``, with missing parents, unless it exists.

    Raises PermissionError if it belongs to another user, or others may write to it or replace it; OSError if
    it cannot be created.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode) and _is_another_users(found):
        raise PermissionError(f"{path} is a link of another user")
    found = path.stat()
    if _is_another_users(found):
        raise PermissionError(f"{path} belongs to another user")
    if found.st_mode & _OTHERS_WRITE:
        raise PermissionError(f"other users may write to {path}")
    require_kept(path.parent)


def require_kept(above: Path) -> None:
    """Check that nobody else can replace what this user creates in the directory ``above``.

    Its owner can, and without the sticky bit (/tmp has it) everyone who may write there. Members of the
    user's own group may write to the user's own directory: some distributions have such a umask.

    Raises PermissionError; OSError if it cannot be examined.
    """
    found = above.stat()
    ours = not _is_another_users(found)
    others = stat.S_IWOTH if ours else _OTHERS_WRITE
    if (ours or found.st_uid == 0) and (found.st_mode & stat.S_ISVTX or not found.st_mode & others):
        return
    raise PermissionError(f"other users may change {above}")


def _is_another_users(found: os.stat_result) -> bool:
    return found.st_uid != os.geteuid()
