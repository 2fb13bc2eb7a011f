"""The folder in which a host remembers the index of one repository between runs.

::

    catalogue            what is taken in, and the names of the segments that count
    <32 hex>.segment     written once, never changed
    lock                 held while a catalogue is replaced

Nothing here is needed: whatever is missing or damaged is built again from the store. Processes that use
one folder at once do not wait for each other. Each works with the files that it has opened; a new
catalogue takes the place of the old one only if that is still the one its maker began with, and a
segment is deleted only if no catalogue names it and nobody who might still publish it holds it locked.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from puller.errors import DamagedData
from puller.host.privatefolder import make_private
from puller.repository.index.catalogue import STAMP, Catalogue
from puller.repository.index.index_file import IndexFile, open_segment, write_segment
from puller.repository.index.rows import Rows

_TRIES = 3
"""Between reading a catalogue and opening its segments another process may have replaced both."""


@dataclass(frozen=True, slots=True)
class Known:
    """A catalogue with its segments, largest first. ``stamp`` tells from which file they were loaded."""

    catalogue: Catalogue
    segments: tuple[IndexFile, ...]
    stamp: bytes

    @property
    def rows(self) -> int:
        """Rows of all segments."""
        return sum(map(len, self.segments))


def cache_directory(repository_id: str) -> Path:
    """Where this user's cache of a repository is. Raises OSError if there is no such place.

    Below ``PULLER_CACHE_DIR``, else below ``puller`` in ``XDG_CACHE_HOME``, ``~/.cache``, or ``/var/cache``
    for root without a home (as services run).
    """
    own = os.environ.get("PULLER_CACHE_DIR")
    if own:
        return Path(own) / repository_id
    xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if xdg.is_absolute():  # the XDG specification has relative ones ignored
        return xdg / "puller" / repository_id
    if os.geteuid() == 0 and not os.environ.get("HOME"):
        return Path("/var/cache/puller") / repository_id
    try:
        return Path.home() / ".cache" / "puller" / repository_id
    except RuntimeError as error:
        raise FileNotFoundError("this user has no home directory") from error


def temporary_directory() -> Path:
    """Where files go that nobody needs later: ``TMPDIR`` or ``/var/tmp``, as ``/tmp`` is often in memory."""
    return Path(os.environ.get("TMPDIR") or "/var/tmp")


def unnamed_segment(folder: Path, parts: Iterable[Rows], expected: int) -> IndexFile:
    """Write a segment to a file without a name: it is gone when the segment is. Raises OSError."""
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        descriptor = os.dup(file.fileno())
    return write_segment(descriptor, os.urandom(16), parts, expected)


class CacheFolder:
    """One folder, made if need be. Methods raise OSError where it cannot be used."""

    def __init__(self, path: Path, repository_id: bytes) -> None:
        self.path = path
        self._repository_id = repository_id
        make_private(path)  # wrong rows would lose data, so nobody else may have had a hand in them

    def load(self) -> Known:
        """What the folder holds; nothing, with the present stamp, where it is missing or damaged."""
        stamp = b""
        for _ in range(_TRIES):
            try:
                content = self._catalogue.read_bytes()
                stamp = content[:STAMP]
                catalogue = Catalogue.decode(content, self._repository_id)
                return Known(catalogue, tuple(map(self._open, catalogue.segments)), stamp)
            except FileNotFoundError:
                continue
            except DamagedData:
                break
        return Known(Catalogue.empty(), (), stamp)

    @property
    def _catalogue(self) -> Path:
        return self.path / "catalogue"

    def _segment(self, name: bytes) -> Path:
        return self.path / f"{name.hex()}.segment"

    def _open(self, name: bytes) -> IndexFile:
        descriptor = os.open(self._segment(name), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            return open_segment(descriptor, name)
        except BaseException:
            os.close(descriptor)
            raise

    def write(self, parts: Iterable[Rows], expected: int) -> IndexFile:
        """Write a segment that is to be published; its file stays locked while this process holds it."""
        name = os.urandom(16)
        descriptor = self._create(self._segment(name))
        try:
            return write_segment(descriptor, name, parts, expected)
        except BaseException:
            self._segment(name).unlink(missing_ok=True)
            raise

    @staticmethod
    def _create(path: Path) -> int:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.fstat(descriptor).st_nlink:
                raise FileNotFoundError(f"{path} was swept away before it could be locked")
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def publish(self, known: Known) -> Known:
        """Let later runs begin with ``known``, unless another process has published since it was loaded.

        Returns it with its new stamp. What is not published is swept away by whoever publishes after
        the end of this process.
        """
        with self._locked() as locked:
            if not locked or self._stamp() != known.stamp:
                return known
            for segment in known.segments:
                os.fsync(segment.descriptor)
            content = known.catalogue.encode(self._repository_id)
            self._replace(content)
            self._sweep(known.catalogue.segments)
        return replace(known, stamp=content[:STAMP])

    def discard(self, stamp: bytes) -> None:
        """Make the next run build everything anew, if the catalogue is still that of ``stamp``."""
        with self._locked() as locked:
            if locked and self._stamp() == stamp:
                self._catalogue.unlink(missing_ok=True)

    @contextmanager
    def _locked(self) -> Iterator[bool]:
        """Hold the lock if nobody else does: whoever does is publishing, and one of the two is enough."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self.path / "lock", flags, 0o600)
        try:
            yield _lock(descriptor)
        finally:
            os.close(descriptor)

    def _stamp(self) -> bytes:
        try:
            with self._catalogue.open("rb") as file:
                return file.read(STAMP)
        except FileNotFoundError:
            return b""

    def _replace(self, content: bytes) -> None:
        """Put a new catalogue in place of the old one; only the holder of the lock does that."""
        fresh = self.path / "catalogue.new"
        fresh.unlink(missing_ok=True)  # what a killed process left
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with os.fdopen(os.open(fresh, flags, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(self._catalogue)

    def _sweep(self, named: Collection[bytes]) -> None:
        kept = {self._segment(name) for name in named}
        for path in self.path.glob("*.segment"):
            if path not in kept:
                _unlink_unless_locked(path)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _unlink_unless_locked(path: Path) -> None:
    with suppress(FileNotFoundError), path.open("rb") as file:
        if _lock(file.fileno()):
            path.unlink()
