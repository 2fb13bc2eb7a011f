"""What a disk may hold after a power cut: the model of *Power cuts* in ``docs/reliability.md``.

``Disk`` follows the changes requested from a file system, and knows after each one what is durable and what
is pending. A ``Choice`` decides the fate of the pending ones.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tests.lab.fuse_memory import Record

ROOT = 1

Tree = dict[str, bytes | None]
"""The files of a disk by path; None for a directory."""

Entry = tuple[tuple[str, int | None], ...]
"""One change of a directory, which takes effect as a whole: names, with their inode or None if they go."""

Write = tuple[int, bytes]
"""Bytes at an offset of a file."""


class Choice(Protocol):
    """The fate of changes that were not synced."""

    def entries(self, pending: Sequence[Entry]) -> Iterable[Entry]:
        """The changes of one directory that took effect; those of one name in their order."""

    def content(self, durable: bytes, now: bytes, pending: Sequence[Write]) -> bytes:
        """What a file holds that was ``durable`` and is ``now``."""


class Nothing:
    """Only what was synced is there."""

    def entries(self, pending: Sequence[Entry]) -> Iterable[Entry]:
        return ()

    def content(self, durable: bytes, now: bytes, pending: Sequence[Write]) -> bytes:
        return durable


class Everything:
    """The kernel had written everything just before."""

    def entries(self, pending: Sequence[Entry]) -> Iterable[Entry]:
        return pending

    def content(self, durable: bytes, now: bytes, pending: Sequence[Write]) -> bytes:
        return now


class Names(Nothing):
    """Directories are written, files are not: all have their length and read as zeros, as on ext4."""

    def entries(self, pending: Sequence[Entry]) -> Iterable[Entry]:
        return pending

    def content(self, durable: bytes, now: bytes, pending: Sequence[Write]) -> bytes:
        return durable + bytes(max(0, len(now) - len(durable)))


@dataclass(frozen=True)
class Mixture:
    """Anything: each change of a directory or not, each block of a file or not, or what lay there before."""

    seed: int
    dice: random.Random = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "dice", random.Random(self.seed))

    def entries(self, pending: Sequence[Entry]) -> Iterable[Entry]:
        share = self.dice.choice([0.2, 0.5, 0.8])
        return [entry for entry in pending if self.dice.random() < share]

    def content(self, durable: bytes, now: bytes, pending: Sequence[Write]) -> bytes:
        """Torn at blocks of 512 or 4096 bytes."""
        block, fate = self.dice.choice([512, 4096]), self.dice.random()
        length = self.dice.choice([len(durable), len(now), self.dice.randint(0, len(now))])
        old = durable.ljust(length, b"\0") if fate < 0.7 else durable + self.dice.randbytes(length)
        share = self.dice.choice([0.0, 0.5, 0.9])
        pieces = (
            (now if self.dice.random() < share else old)[place : place + block]
            for place in range(0, length, block)
        )
        return b"".join(pieces)[:length]


@dataclass
class _File:
    durable: bytes = b""
    now: bytearray = field(default_factory=bytearray)
    pending: list[Write] = field(default_factory=list)


@dataclass
class _Directory:
    durable: dict[str, int] = field(default_factory=dict)
    pending: list[Entry] = field(default_factory=list)


@dataclass
class Disk:
    """A disk under a file system."""

    files: dict[int, _File] = field(default_factory=dict)
    directories: dict[int, _Directory] = field(default_factory=lambda: {ROOT: _Directory()})

    def follow(self, record: Record) -> None:
        """Take one change into account."""
        name, *rest = record
        steps: dict[str, Callable[..., None]] = {
            "create": self._create,
            "mkdir": self._make_directory,
            "link": self._name,
            "rename": self._rename,
            "unlink": self._unlink,
            "write": self._write,
            "truncate": self._truncate,
            "sync file": self._sync_file,
            "sync directory": self._sync_directory,
        }
        steps[name](*rest)

    def after(self, choice: Choice) -> Tree:
        """The files after a power cut."""
        tree: Tree = {}
        for path, number in self._named(ROOT, "", choice):
            file = self.files.get(number)
            tree[path] = None if file is None else self._content(file, choice)
        return tree

    def _named(self, number: int, path: str, choice: Choice) -> Iterator[tuple[str, int]]:
        directory = self.directories[number]
        names: dict[str, int | None] = dict(directory.durable)
        for entry in choice.entries(directory.pending) if directory.pending else ():
            names.update(entry)
        for name, inode in names.items():
            if inode is not None:
                yield f"{path}{name}", inode
                if inode in self.directories:
                    yield from self._named(inode, f"{path}{name}/", choice)

    def _content(self, file: _File, choice: Choice) -> bytes:
        if not file.pending:
            return file.durable
        return choice.content(file.durable, bytes(file.now), file.pending)

    def _create(self, above: int, name: str, number: int) -> None:
        self.files[number] = _File()
        self._name(above, name, number)

    def _make_directory(self, above: int, name: str, number: int) -> None:
        self.directories[number] = _Directory()
        self._name(above, name, number)

    def _name(self, above: int, name: str, number: int) -> None:
        self.directories[above].pending.append(((name, number),))

    def _rename(self, above: int, name: str, below: int, becomes: str, number: int) -> None:
        assert above == below, "nothing is moved to another directory"
        self.directories[above].pending.append(((name, None), (becomes, number)))

    def _unlink(self, above: int, name: str) -> None:
        self.directories[above].pending.append(((name, None),))

    def _write(self, number: int, offset: int, data: bytes) -> None:
        file = self.files[number]
        file.now.extend(bytes(max(0, offset - len(file.now))))
        file.now[offset : offset + len(data)] = data
        file.pending.append((offset, data))

    def _truncate(self, number: int, length: int) -> None:
        file = self.files[number]
        del file.now[length:]
        file.now.extend(bytes(length - len(file.now)))
        file.pending.append((length, b""))

    def _sync_file(self, number: int) -> None:
        file = self.files[number]
        if file.pending:
            file.durable = bytes(file.now)
            file.pending.clear()

    def _sync_directory(self, number: int) -> None:
        directory = self.directories[number]
        names: dict[str, int | None] = dict(directory.durable)
        for entry in directory.pending:
            names.update(entry)
        directory.durable = {name: inode for name, inode in names.items() if inode is not None}
        directory.pending.clear()


def lay_out(tree: Tree, folder: Path) -> None:
    """Write the files of ``tree`` below ``folder``, which does not exist yet."""
    folder.mkdir(parents=True)
    for path, content in tree.items():
        if content is None:
            (folder / path).mkdir()
        else:
            (folder / path).write_bytes(content)
