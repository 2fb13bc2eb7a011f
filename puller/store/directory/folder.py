"""A store in a directory, on a local disk or a mounted network file system.

An object is written under a temporary name, synced, and then renamed (or hard-linked, if it must be new) to
its own name; the directory is synced last. So an object is either complete and durable or absent. Files that
a crash leaves are named ``.tmp-`` and 16 digits, are never listed, and are swept when they are old. A
deletion is durable, too: see *Power cuts* in ``docs/reliability.md``.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
from collections.abc import Generator, Iterable, Iterator, Sequence
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
from puller.store.directory.files import read_file, write_file
from puller.store.directory.mounts import is_remote, means_lacking, sync_folder
from puller.store.objectlock import Unlockable

_LEFTOVER = re.compile(r"\.tmp-[0-9a-f]{16}")
"""Name of a file that becomes an object when it is complete."""

_ERRORS: dict[int | None, type[StoreError]] = {
    errno.ENOTDIR: NoBucket,
    errno.EEXIST: ObjectExists,
    errno.ENOSPC: StoreFull,
    errno.EDQUOT: StoreFull,
    errno.EACCES: StoreDenied,
    errno.EPERM: StoreDenied,
    errno.EROFS: StoreDenied,
    # Errors of network file systems whose server is unavailable.
    errno.ESTALE: StoreUnavailable,
    errno.ETIMEDOUT: StoreUnavailable,
    errno.ENOTCONN: StoreUnavailable,
    errno.EHOSTDOWN: StoreUnavailable,
    errno.EHOSTUNREACH: StoreUnavailable,
}


_ADVICE: dict[type[StoreError], str] = {
    StoreDenied: "Give this user write access to the directory, and mount its file system for writing.",
    StoreUnavailable: "Check that the server of the file system runs and that it is mounted.",
    NoBucket: "Create the parent directory of the repository first, or correct the path.",
    StoreError: "Check the file system; 'dmesg' may show the cause.",
}


class FolderStore(Scoped, Unlockable):
    """Objects as files below ``root``, which the first put creates if its parent exists.

    Directories get mode 0700 and files 0600. The etag consists of time, size and inode, which a replaced
    object never shares with the one before. On a remote file system it omits the inode, which may change
    there between two calls.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        # Directories that this process made durable. Two threads may do it for the same one.
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
            return read_file(descriptor, 0, info.size)

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """See ``Store.get_range``."""
        validate_range(offset, length)
        with self._open(key) as (descriptor, info):
            return _read_range(descriptor, info, offset, length)

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """See ``Store.get_ranges``: the file is opened once."""
        for offset, length in ranges:
            validate_range(offset, length)
        with self._open(key) as (descriptor, info):
            for offset, length in ranges if len(ranges) > 1 else ():
                # The kernel reads all of them at the same time, if they are not in memory.
                os.posix_fadvise(descriptor, offset, length, os.POSIX_FADV_WILLNEED)
            found = []
            for offset, length in ranges:
                found.append(_read_range(descriptor, info, offset, length))
                self.scope.note_progress()
            return found

    def get_tail(self, key: str, length: int) -> tuple[bytes, ObjectInfo]:
        """See ``Store.get_tail``."""
        validate_range(0, length)
        with self._open(key) as (descriptor, info):
            return read_file(descriptor, max(0, info.size - length), min(length, info.size)), info

    def put(self, key: str, body: Body) -> None:
        """See ``Store.put``."""
        with self._written(key, body) as (temporary, target):
            temporary.rename(target)

    def put_new(self, key: str, body: Body) -> None:
        """See ``Store.put_new``. Needs a file system with hard links: only ``link`` never replaces a file."""
        with self._written(key, body) as (temporary, target):
            _link(temporary, target)

    def stat(self, key: str) -> ObjectInfo:
        """See ``Store.stat``."""
        with self._open(key) as (_, info):
            return info

    def exists(self, key: str) -> bool:
        """See ``Store.exists``."""
        try:
            self.stat(key)
        except ObjectNotFound:
            return False
        return True

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See ``Store.list``."""
        validate_prefix(prefix)
        return self._walk(self._root / prefix, prefix)

    def delete(self, keys: Iterable[str]) -> None:
        """See ``Store.delete``. A power cut undoes nothing of it once this returns."""
        by_folder: dict[Path, list[str]] = {}
        for key in keys:
            by_folder.setdefault(self._path(key).parent, []).append(key)
        failures = [error for folder, found in by_folder.items() for error in self._delete_in(folder, found)]
        if failures:
            raise failures[0]

    def sweep(self, prefixes: Iterable[str], before: float) -> None:
        """See ``Store.sweep``."""
        for folder in (self._root, *self._folders_below(prefixes)):
            for path in self._leftovers(folder, before):
                with self._translated(f"cannot delete {path.name}"):
                    path.unlink(missing_ok=True)
            self.scope.note_progress()

    def _folders_below(self, prefixes: Iterable[str]) -> Iterator[Path]:
        waiting = [self._root / validate_prefix(prefix) for prefix in prefixes]
        while waiting:
            folder = waiting.pop()
            yield folder
            waiting += [folder / entry.name for entry in self._entries(folder) if entry.is_dir()]

    def _leftovers(self, folder: Path, before: float) -> Sequence[Path]:
        """Return the files of interrupted puts that were last written before then."""
        with (
            self._translated("cannot list objects"),
            suppress(FileNotFoundError),
            os.scandir(folder) as found,
        ):
            return [
                folder / entry.name
                for entry in found
                if _LEFTOVER.fullmatch(entry.name) and _is_older(entry, before)
            ]
        return []

    def _delete_in(self, folder: Path, keys: Sequence[str]) -> Iterator[StoreError]:
        """Delete, and yield what failed.

        The directory is also synced first: the object that replaces a deleted one is in the same directory,
        and another process may have named it and died before its own sync.
        """
        try:
            with self._translated(f"cannot delete {keys[0]}"), suppress(FileNotFoundError):
                sync_folder(folder)
                failures = [error for key in keys for error in self._unlink(key)]
                sync_folder(folder)
                yield from failures
        except StoreError as error:
            yield error
        self.scope.note_progress()

    def _unlink(self, key: str) -> Iterator[StoreError]:
        try:
            with self._translated(f"cannot delete {key}"):
                self._path(key).unlink(missing_ok=True)
        except StoreError as error:
            yield error

    def remove_empty(self, prefix: str) -> None:
        """Remove the directory of ``prefix`` and those in it, except those that hold something.

        Only for a prefix that no put uses any more.
        """
        for place, _, _ in os.walk(self._path(prefix.removesuffix("/")), topdown=False):
            with suppress(OSError):
                Path(place).rmdir()

    def _path(self, key: str) -> Path:
        return self._root / validate_key(key)

    @contextmanager
    def _open(self, key: str) -> Generator[tuple[int, ObjectInfo], None, None]:
        path = self._path(key)
        with self._translated(f"cannot read {key}"):
            # O_NONBLOCK: opening a FIFO in an object's place would wait for its writer forever.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode):
                    raise ObjectNotFound(f"cannot read {key} in {self.url}: it is not a regular file")
                yield descriptor, self._info(key, status)
            finally:
                os.close(descriptor)

    @contextmanager
    def _written(self, key: str, body: Body) -> Generator[tuple[Path, Path], None, None]:
        """Write the body, yield its temporary and its final path for the rename, then sync the directory."""
        target = self._path(key)
        temporary = target.parent / f".tmp-{secrets.token_hex(8)}"
        with self._translated(f"cannot store {key}", NoBucket):
            self._prepare(target.parent)
            try:
                write_file(temporary, body, self.scope.note_progress)
                yield temporary, target
                sync_folder(target.parent)
            finally:
                temporary.unlink(missing_ok=True)

    def _prepare(self, folder: Path) -> None:
        """Create ``folder`` so that it survives a power cut.

        Another process may have just created an existing directory without having synced it yet, so the
        first use in a process syncs the parent directory too.
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
            raise NoBucket(f"cannot create {self.url}: the directory {self._root.parent} does not exist")
        with suppress(FileExistsError):
            self._root.mkdir(mode=0o700)
        sync_folder(self._root.parent)

    def _walk(self, folder: Path, prefix: str) -> Iterator[ObjectInfo]:
        for entry in self._entries(folder):
            key = prefix + entry.name
            if entry.is_dir():
                yield from self._walk(folder / entry.name, f"{key}/")
            elif (info := self._stat_entry(key, entry)) is not None:
                yield info

    def _entries(self, folder: Path) -> Iterable[os.DirEntry[str]]:
        """Return our entries in ``folder``, in the order of keys; none if it does not exist."""
        with (
            self._translated("cannot list objects"),
            suppress(FileNotFoundError),
            os.scandir(folder) as found,
        ):
            return sorted((entry for entry in found if not is_foreign(entry.name)), key=_place)
        return ()

    def _stat_entry(self, key: str, entry: os.DirEntry[str]) -> ObjectInfo | None:
        """Return the info of a regular file; None for anything else and for a file that is gone."""
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
        """Raise an ``OSError`` from inside as ours; ``absent`` is the error for a missing file."""
        try:
            yield
        except FileNotFoundError as error:
            text = f"{action} in {self.url}: no such file or directory"
            raise absent(text, advice=_ADVICE.get(absent)) from error
        except OSError as error:
            raise translate(error, f"{action} in {self.url}") from error


def translate(error: OSError, action: str) -> StoreError:
    """Return the error to raise for ``error`` during ``action``."""
    kind = _ERRORS.get(error.errno, StoreError)
    text = f"{action}: {os.strerror(error.errno) if error.errno else error}"
    return kind(text, advice=_ADVICE.get(kind))


def _place(entry: os.DirEntry[str]) -> str:
    """Return the sort key of an entry, so that entries sort like their keys: ``a-b`` before ``a/x``."""
    return f"{entry.name}/" if entry.is_dir() else entry.name


def _is_older(entry: os.DirEntry[str], before: float) -> bool:
    try:
        status = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_mtime < before


def _read_range(descriptor: int, info: ObjectInfo, offset: int, length: int) -> bytes:
    return read_file(descriptor, offset, min(length, max(0, info.size - offset)))


def _link(temporary: Path, target: Path) -> None:
    """Give the file its name unless the name exists. Without hard links, FAT answers EPERM, others vary."""
    try:
        target.hardlink_to(temporary)
    except FileExistsError:
        # Of this call's own first try, or of a process that died: durable before anybody relies on it.
        sync_folder(target.parent)
        raise
    except OSError as error:
        # The file was just written there, so write permission is not the cause.
        if means_lacking(error, target.parent):
            raise UnsupportedByStore(f"the file system of {target} has no hard links") from error
        raise
