"""A store in a folder: a local disk, or a file system mounted from elsewhere.

An object is written under a temporary name, synced, and then renamed (or, to be the only one,
hard-linked) to its own; the folder is synced last. So an object is either whole and durable or not
there. What a crash leaves behind has ``.tmp-`` in its name, is foreign and is never listed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from puller.cancelling import Scoped
from puller.errors import (
    NoBucket,
    ObjectExists,
    ObjectNotFound,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnavailable,
    UnsupportedByStore,
)
from puller.store.base import (
    Body,
    ObjectInfo,
    check_size,
    is_foreign,
    validate_key,
    validate_prefix,
    validate_range,
)
from puller.store.mounts import is_remote, means_lacking, sync_folder

_DIRECT = 1 << 20
"""Bytes from which a body goes past the page cache, as far as its buffer and the file system allow: on a full
host the cache first has to push out what guests are using."""

_BLOCK = 4096
"""What a direct write's length must be a multiple of; devices with larger blocks say EINVAL."""

_PIECE = 8 << 20
"""Bytes that are written at a time: each is a sign that a slow file system still works."""

_ERRORS: dict[int | None, type[StoreError]] = {
    errno.ENOTDIR: NoBucket,
    errno.EEXIST: ObjectExists,
    errno.ENOSPC: StoreFull,
    errno.EDQUOT: StoreFull,
    errno.EACCES: StoreDenied,
    errno.EPERM: StoreDenied,
    errno.EROFS: StoreDenied,
    # What network file systems answer when their server is away.
    errno.ESTALE: StoreUnavailable,
    errno.ETIMEDOUT: StoreUnavailable,
    errno.ENOTCONN: StoreUnavailable,
    errno.EHOSTDOWN: StoreUnavailable,
    errno.EHOSTUNREACH: StoreUnavailable,
}


_ADVICE: dict[type[StoreError], str] = {
    StoreDenied: "Let this user write to the directory, and mount its file system for writing.",
    StoreUnavailable: "Check that the server of the file system runs and that it is mounted.",
    NoBucket: "Create the directory above the repository first, or correct the path.",
    StoreError: "Check the file system; 'dmesg' may tell more.",
}


class FolderStore(Scoped):
    """Objects as files below ``root``, which is made by the first put if its parent is there.

    Folders get mode 0700 and files 0600. The etag is made of time, size and inode, which a replaced
    object never shares with the one before. Where the file system is remote it goes without the inode, which
    may differ from look to look there.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        # Folders that this process found or made durable. Two threads may do it for the same one.
        self._durable: set[Path] = set()
        self._remote: list[bool] = []

    @property
    def url(self) -> str:
        """The root's path."""
        return str(self._root)

    def get(self, key: str, *, max_size: int | None = None) -> bytes:
        """See ``Store.get``."""
        with self._open(key) as (descriptor, info):
            check_size(key, info.size, max_size)
            return _read(descriptor, 0, info.size)

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """See ``Store.get_range``."""
        validate_range(offset, length)
        with self._open(key) as (descriptor, info):
            return _read(descriptor, offset, min(length, max(0, info.size - offset)))

    def get_tail(self, key: str, length: int) -> tuple[bytes, ObjectInfo]:
        """See ``Store.get_tail``."""
        validate_range(0, length)
        with self._open(key) as (descriptor, info):
            return _read(descriptor, max(0, info.size - length), min(length, info.size)), info

    def put(self, key: str, body: Body) -> None:
        """See ``Store.put``."""
        with self._written(key, body) as (temporary, target):
            temporary.rename(target)

    def put_new(self, key: str, body: Body) -> None:
        """See ``Store.put_new``. Needs a file system with hard links: only ``link`` refuses to replace."""
        with self._written(key, body) as (temporary, target):
            _link(temporary, target)

    def stat(self, key: str) -> ObjectInfo:
        """See ``Store.stat``."""
        with self._open(key) as (_, info):
            return info

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See ``Store.list``."""
        validate_prefix(prefix)
        return self._walk(self._root / prefix, prefix)

    def delete(self, keys: Iterable[str]) -> None:
        """See ``Store.delete``. A deletion may come undone by a power cut, which hurts nobody."""
        failures = []
        for key in keys:
            try:
                with self._translated(f"cannot delete {key}"):
                    self._path(key).unlink(missing_ok=True)
            except StoreError as error:
                failures.append(error)
        if failures:
            raise failures[0]

    def _path(self, key: str) -> Path:
        return self._root / validate_key(key)

    @contextmanager
    def _open(self, key: str) -> Generator[tuple[int, ObjectInfo], None, None]:
        path = self._path(key)
        with self._translated(f"cannot read {key}"):
            # Without waiting: a FIFO in an object's place would wait for its writer, for ever.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode):
                    raise ObjectNotFound(f"cannot read {key} in {self.url}: it is not a file")
                yield descriptor, self._info(key, status)
            finally:
                os.close(descriptor)

    @contextmanager
    def _written(self, key: str, body: Body) -> Generator[tuple[Path, Path], None, None]:
        """Write the body; give its temporary and its final path to whoever names it; sync that name."""
        target = self._path(key)
        temporary = target.parent / f".tmp-{secrets.token_hex(8)}"
        with self._translated(f"cannot store {key}", NoBucket):
            self._prepare(target.parent)
            try:
                _write(temporary, body, self.scope.note_progress)
                yield temporary, target
                sync_folder(target.parent)
            finally:
                temporary.unlink(missing_ok=True)

    def _prepare(self, folder: Path) -> None:
        """Make ``folder`` be there and survive a power cut.

        A folder that is there already may have been made an instant ago by someone who has not
        synced it yet, so the first use in a process syncs the folder above it too.
        """
        if folder in self._durable:
            return
        if folder == self._root:
            self._make_root()
        else:
            self._prepare(folder.parent)
            with suppress(FileExistsError):
                folder.mkdir(mode=0o700)
            sync_folder(folder.parent)
        self._durable.add(folder)

    def _make_root(self) -> None:
        if self._root.exists():
            return
        if not self._root.parent.is_dir():
            raise NoBucket(f"the directory {self._root.parent}, in which to make {self.url}, does not exist")
        with suppress(FileExistsError):
            self._root.mkdir(mode=0o700)
        sync_folder(self._root.parent)

    def _walk(self, folder: Path, prefix: str) -> Iterator[ObjectInfo]:
        for entry in self._entries(folder):
            key = prefix + entry.name
            if entry.is_dir():
                yield from self._walk(folder / entry.name, f"{key}/")
            elif (info := self._look(key, entry)) is not None:
                yield info

    def _entries(self, folder: Path) -> Iterable[os.DirEntry[str]]:
        """Return what is ours in ``folder``, in the order of keys; nothing if it is not there."""
        with (
            self._translated("cannot list objects"),
            suppress(FileNotFoundError),
            os.scandir(folder) as found,
        ):
            return sorted((entry for entry in found if not is_foreign(entry.name)), key=_place)
        return ()

    def _look(self, key: str, entry: os.DirEntry[str]) -> ObjectInfo | None:
        """Return the info of a regular file, None for anything else and for what is gone by now."""
        with self._translated(f"cannot read {key}"), suppress(FileNotFoundError):
            status = entry.stat()
            self.scope.note_progress()
            return self._info(key, status) if stat.S_ISREG(status.st_mode) else None
        return None

    def _info(self, key: str, status: os.stat_result) -> ObjectInfo:
        inode = "" if self._is_remote() else f"-{status.st_ino}"
        etag = f"{status.st_mtime_ns}-{status.st_size}{inode}"
        return ObjectInfo(key, status.st_size, status.st_mtime, etag)

    def _is_remote(self) -> bool:
        if not self._remote:
            self._remote.append(is_remote(self._root))
        return self._remote[0]

    @contextmanager
    def _translated(
        self, action: str, absent: type[StoreError] = ObjectNotFound
    ) -> Generator[None, None, None]:
        """Raise an ``OSError`` from inside as ours. Where something is not there, ``absent`` says what."""
        try:
            yield
        except FileNotFoundError as error:
            text = f"{action} in {self.url}: there is no such file or directory"
            raise absent(text, advice=_ADVICE.get(absent)) from error
        except OSError as error:
            raise translate(error, f"{action} in {self.url}") from error


def translate(error: OSError, action: str) -> StoreError:
    """Return the error to raise for ``error``, which came up during ``action``."""
    kind = _ERRORS.get(error.errno, StoreError)
    text = f"{action}: {os.strerror(error.errno) if error.errno else error}"
    return kind(text, advice=_ADVICE.get(kind))


def _place(entry: os.DirEntry[str]) -> str:
    """Return what sorts a folder's entries as the keys below them sort: ``a-b`` before ``a/x``."""
    return f"{entry.name}/" if entry.is_dir() else entry.name


def _read(descriptor: int, offset: int, length: int) -> bytes:
    """Read until ``length`` or the end: one ``pread`` gives 2 GiB at most and may give less."""
    pieces = []
    while length > 0 and (piece := os.pread(descriptor, length, offset)):
        pieces.append(piece)
        offset += len(piece)
        length -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _write(path: Path, body: Body, note_progress: Callable[[], None]) -> None:
    """Make the file, write ``body`` without copying it, and sync."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        rest = memoryview(body)
        if len(rest) >= _DIRECT:
            rest = _write_direct(descriptor, rest, note_progress)
        while rest:
            rest = rest[os.write(descriptor, rest[:_PIECE]) :]
            note_progress()
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_direct(descriptor: int, body: memoryview, note_progress: Callable[[], None]) -> memoryview:
    """Write whole blocks past the page cache; return what is left, all of it where that cannot be done.

    It takes a buffer that begins at a page, as those of packs do, and a file system that knows O_DIRECT.
    """
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    whole, done = len(body) // _BLOCK * _BLOCK, 0
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_DIRECT)
        while done < whole:
            done += os.write(descriptor, body[done : min(whole, done + _PIECE)])
            note_progress()
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.EOPNOTSUPP}:
            raise
    finally:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags)
    return body[done:]


def _link(temporary: Path, target: Path) -> None:
    """Give the file its name unless the name is taken. FAT answers EPERM, others what they like."""
    try:
        target.hardlink_to(temporary)
    except OSError as error:
        # The file was just written there, so no right to write is missing.
        if means_lacking(error, target.parent):
            raise UnsupportedByStore(f"the file system of {target} has no hard links") from error
        raise
