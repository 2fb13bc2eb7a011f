"""What a repository needs from the file system of its directory: ``init`` tests it, not a backup.

Hard links, sync of directories, direct writes and stable inodes are not needed, so they are not tested here.
"""

from __future__ import annotations

import mmap
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from puller.cancelling import CancelScope
from puller.errors import StoreError, UnsupportedByStore
from puller.store.directory.files import write_file
from puller.store.directory.folder import translate
from puller.store.silence import request

_SIZE = 1 << 20
"""Bytes of the largest test file: large enough to be written past the page cache."""

_NAME = "20260131T235959Z-0123abcd"
"""A name of the longest kind with letters of both cases; packs have up to 43 characters."""

_LONGEST = "0123456789abcdef" * 2 + ".4294967295"

_PLAUSIBLE = 1_000_000_000
"""Seconds since the epoch that every time of modification exceeds: 2001."""


def require_file_system(root: Path) -> None:
    """Raise UnsupportedByStore if a repository in ``root`` could not work, and StoreError if a trial fails.

    Nothing is left. A directory in which nothing can be created is not judged: the store says why.
    """
    request(CancelScope(), lambda: _try(root))


def _try(root: Path) -> None:
    place = (root if root.is_dir() else root.parent) / f".tmp-{secrets.token_hex(8)}"
    try:
        place.mkdir(mode=0o700)
    except OSError:
        return
    try:
        for trial in (_try_names, _try_content, _try_rename, _try_times):
            trial(place, root)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _try_names(place: Path, root: Path) -> None:
    for name in (_NAME, _LONGEST):
        with _judged(root, f"store a name of {len(name)} characters"):
            (place / name).write_bytes(b"")
        listed = _names(place)
        if listed != [name]:
            _refuse(root, f"keep names: it lists {name} as {', '.join(listed) or 'nothing'}")
        (place / name).unlink()


def _try_content(place: Path, root: Path) -> None:
    body = memoryview(mmap.mmap(-1, _SIZE))  # page-aligned, like the buffers of packs
    body[:] = secrets.token_bytes(_SIZE)
    with _judged(root, "write and sync a file"):
        write_file(place / _NAME, body, _nothing)
    with _judged(root, "read a file"):
        content = (place / _NAME).read_bytes()
    if content != body:
        _refuse(root, "keep content: a file reads differently from what was written")


def _try_rename(place: Path, root: Path) -> None:
    with _judged(root, "rename a file"):
        (place / _NAME).rename(place / _LONGEST)
    if _names(place) != [_LONGEST]:
        _refuse(root, "rename a file: both names are there")


def _try_times(place: Path, root: Path) -> None:
    """Leases, grace times and the age of leftovers depend on them."""
    if (place / _LONGEST).stat().st_mtime < _PLAUSIBLE:
        _refuse(root, "keep times of modification")


@contextmanager
def _judged(root: Path, what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        found = translate(error, f"cannot try out the file system of {root}")
        if type(found) is not StoreError:
            raise found from error
        _refuse(root, f"{what}: {os.strerror(error.errno or 0)}")


def _refuse(root: Path, what: str) -> None:
    raise UnsupportedByStore(
        f"cannot keep a repository in {root}: its file system cannot {what}",
        advice="Choose a directory on another file system, or an S3 bucket.",
    )


def _names(place: Path) -> list[str]:
    return [path.name for path in place.iterdir()]


def _nothing() -> None:
    pass
