"""Copies of a guest's files on this host.

The guest is not trusted, so no name of it is ever opened that exists: each copy grows in a new directory
that only this user can enter, everything in it is created there and nowhere else, and when it is complete it
gets its name.
"""

from __future__ import annotations

import os
import posixpath
import secrets
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from puller.errors import OutputRefused, UsageError
from puller.recovery.files.entry import FileEntry
from puller.recovery.files.tree import GuestTree, is_plain
from puller.recovery.targets import outputs

_BLOCK = 4096
_ACCESS_LISTS = ("system.posix_acl_access", "system.posix_acl_default")
_PRIVATE = 0o600
_SAFELY = os.O_NOFOLLOW | os.O_CLOEXEC
_SHARED_RIGHTS = 0o1777
"""Bits of a mode that are copied: setuid and setgid would give a guest's program rights on this host."""


@dataclass(frozen=True, slots=True)
class SkippedFile:
    """What was not copied, or only in part, and why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class CopiedPath:
    """``path`` of the guest is now ``output``: so many files and directories, of ``bytes`` in all."""

    path: str
    output: str
    files: int
    directories: int
    bytes: int
    skipped: tuple[SkippedFile, ...]


@dataclass(frozen=True, slots=True)
class CopyPlan:
    """The entry ``entry`` goes to ``output``."""

    entry: FileEntry
    output: Path


def make_plan(tree: GuestTree, paths: Sequence[str], destination: str, force: bool) -> list[CopyPlan]:
    """Pair each path with its output. Raises NoSuchFile, OutputRefused, UsageError; nothing was touched."""
    place = Path(destination)
    into = destination.endswith("/") or place.is_dir()
    if len(paths) > 1 and not into:
        raise UsageError(
            f"{destination} is not a directory",
            advice="Copy several files into a directory: end it with a slash.",
        )
    plans = []
    for path in paths:
        entry = tree.entry(path)
        name = posixpath.basename(entry.path) or "root"
        plans.append(CopyPlan(entry, place / name if into else place))
    for plan in plans:
        _refuse(plan, force)
    if len({plan.output for plan in plans}) < len(plans):
        raise UsageError("two of the paths have the same name", advice="Copy them one after the other.")
    return plans


def _refuse(plan: CopyPlan, force: bool) -> None:
    outputs.refuse_impossible(str(plan.output))
    if not os.path.lexists(plan.output):
        return
    if not force:
        raise OutputRefused(
            f"{plan.output} exists", advice="Choose another DEST, or pass --force to replace files."
        )
    if plan.entry.type == "directory" or (plan.output.is_dir() and not plan.output.is_symlink()):
        raise OutputRefused(
            f"{plan.output} exists, and directories are not replaced", advice="Choose another DEST."
        )


def copy(tree: GuestTree, plan: CopyPlan) -> CopiedPath:
    """Copy what ``plan`` names. Raises FileUnreadable, OutputFailed; nothing is left then."""
    with outputs.translated(str(plan.output)):
        outputs.make_folder(plan.output.parent)
        with _workshop(plan.output) as folder:
            copier = _Copier(tree)
            copier.copy(plan.entry, folder / "copy")
            if not os.path.lexists(folder / "copy"):
                raise OutputRefused(
                    f"{plan.entry.path} is a {plan.entry.type}, which is not copied",
                    advice="Name files, directories or symbolic links.",
                )
            copier.publish(folder / "copy", plan.output)
    return copier.result(plan)


@contextmanager
def _workshop(output: Path) -> Iterator[Path]:
    """A new directory beside ``output`` that only this user can enter."""
    # Without the output's own name, which may be as long as names can be.
    folder = output.with_name(f".puller-cp.partial-{secrets.token_hex(4)}")
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Copier:
    """Copies entries of ``tree``, and what is below them, to where nothing is yet."""

    def __init__(self, tree: GuestTree) -> None:
        self._tree = tree
        self._as_root = os.geteuid() == 0
        self._names: dict[tuple[int, int], Path] = {}
        self._top: FileEntry | None = None
        self._files = 0
        self._directories = 0
        self._bytes = 0
        self._skipped: list[SkippedFile] = []

    def result(self, plan: CopyPlan) -> CopiedPath:
        """Return what was done for ``plan``."""
        counts = self._files, self._directories, self._bytes
        return CopiedPath(plan.entry.path, str(plan.output), *counts, tuple(self._skipped))

    def copy(self, entry: FileEntry, output: Path) -> None:
        """Copy ``entry``, as ``output``."""
        waiting = [(entry, output)]
        directories: list[tuple[FileEntry, Path]] = []
        while waiting:
            current, place = waiting.pop()
            if current.type != "directory":
                self._copy_one(current, place)
                continue
            place.mkdir(mode=0o700)
            directories.append((current, place))
            waiting += [(below, place / name) for name, below in self._named(current.path)]
        for directory, place in reversed(directories[1:]):  # after their content, which changes their times
            self._finish_directory(directory, place, place)
        self._top = directories[0][0] if directories else None
        self._directories = len(directories)

    def publish(self, place: Path, output: Path) -> None:
        """Give what was copied to ``place`` its name."""
        if self._top is None:
            place.rename(output)
        else:
            self._finish_directory(self._top, place, output)

    def _named(self, path: str) -> Iterator[tuple[str, FileEntry]]:
        for entry in self._tree.entries(path):
            name = posixpath.basename(entry.path)
            if is_plain(name):
                yield name, entry
            else:
                self._skip(entry, "its name is impossible")

    def _copy_one(self, entry: FileEntry, output: Path) -> None:
        match entry.type:
            case "file":
                self._copy_file(entry, output)
            case "symlink" if entry.target:
                output.symlink_to(entry.target)
                self._finish_symlink(entry, output)
            case "symlink":
                self._skip(entry, "a symlink whose target is not UTF-8 is not copied")
            case _:
                self._skip(entry, f"a {entry.type} is not copied")

    def _copy_file(self, entry: FileEntry, output: Path) -> None:
        first = self._names.get(entry.inode) if entry.links > 1 else None
        if first is not None:
            output.hardlink_to(first)
            return
        descriptor = os.open(output, os.O_RDWR | os.O_CREAT | os.O_EXCL | _SAFELY, _PRIVATE)
        try:
            self._fill(entry, descriptor)
            self._finish(entry, descriptor)
        finally:
            os.close(descriptor)
        self._files += 1
        self._bytes += entry.size
        if entry.links > 1:
            self._names[entry.inode] = output

    def _fill(self, entry: FileEntry, descriptor: int) -> None:
        os.truncate(descriptor, entry.size)
        offset = 0
        for piece in self._tree.pieces(entry.path, entry.size):
            for begin, end in filled(piece):
                _write(descriptor, memoryview(piece)[begin:end], offset + begin)
            offset += len(piece)

    def _finish_directory(self, entry: FileEntry, place: Path, output: Path) -> None:
        """Move it first: who is not root may not move a directory that its mode lets nobody write to."""
        descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | _SAFELY)
        try:
            if output != place:
                place.rename(output)
            self._finish(entry, descriptor)
        finally:
            os.close(descriptor)

    def _finish(self, entry: FileEntry, descriptor: int) -> None:
        """Give an open file its owner, attributes, mode and time; none of these undoes one before it."""
        if self._as_root:
            os.fchown(descriptor, entry.uid, entry.gid)
        self._copy_attributes(entry, descriptor)
        os.fchmod(descriptor, entry.mode & _SHARED_RIGHTS)
        os.utime(descriptor, ns=(entry.mtime_ns, entry.mtime_ns))
        if entry.mode & (stat.S_ISUID | stat.S_ISGID) and entry.type == "file":
            self._skip(entry, "its setuid or setgid bit is not copied")

    def _finish_symlink(self, entry: FileEntry, output: Path) -> None:
        if self._as_root:
            os.chown(output, entry.uid, entry.gid, follow_symlinks=False)
        with suppress(OSError, NotImplementedError):  # some file systems keep no times of symlinks
            os.utime(output, ns=(entry.mtime_ns, entry.mtime_ns), follow_symlinks=False)

    def _copy_attributes(self, entry: FileEntry, descriptor: int) -> None:
        for name, value in self._tree.attributes(entry.path).items():
            if name.startswith("user.") or (self._as_root and name in _ACCESS_LISTS):
                try:
                    os.setxattr(descriptor, name, value)
                except OSError as error:
                    self._skip(entry, f"its attribute {name} is not copied: {error.strerror}")

    def _skip(self, entry: FileEntry, reason: str) -> None:
        self._skipped.append(SkippedFile(entry.path, reason))


def filled(piece: bytes) -> Iterator[tuple[int, int]]:
    """The parts of ``piece`` that are not zero, in whole blocks of 4 KiB: the others stay holes."""
    zeros = bytes(_BLOCK)
    begin: int | None = None
    for offset in range(0, len(piece), _BLOCK):
        block = piece[offset : offset + _BLOCK]
        if block == zeros[: len(block)]:
            if begin is not None:
                yield begin, offset
            begin = None
        elif begin is None:
            begin = offset
    if begin is not None:
        yield begin, len(piece)


def _write(descriptor: int, content: memoryview, offset: int) -> None:
    done = 0
    while done < len(content):
        done += os.pwrite(descriptor, content[done:], offset + done)
