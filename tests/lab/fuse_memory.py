"""An in-memory file system, mounted through FUSE, that records requests or refuses some, as others do.

Run as a program, ``python -m tests.lab.fuse_memory MOUNTPOINT JSON``: a test that calls a file system of its
own process while it holds the interpreter's lock would wait for itself.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mfusepy
import msgspec

_WAIT = 60.0

Record = tuple[Any, ...]
"""One change: its name and what it changed. Inodes are numbers; the root is 1."""


class Quirks(msgspec.Struct, frozen=True):
    """What is unusual about the file system.

    ``refused`` gives the error number of operations: ``sync file``, ``sync directory``, ``link``, ``rename``,
    ``direct`` (a write past the page cache). ``log`` is the file that changes are recorded in.
    """

    refused: Mapping[str, int] = {}
    log: str = ""
    changing_inodes: bool = False
    lower_case: bool = False
    longest_name: int = 255
    timeless: bool = False


@dataclass
class Node:
    """A file or directory."""

    number: int
    mode: int
    names: dict[str, Node] = field(default_factory=dict)
    content: bytearray = field(default_factory=bytearray)
    links: int = 1
    modified: int = field(default_factory=time.time_ns)

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)


class FuseMemory(mfusepy.Operations):  # type: ignore[misc]
    """See the module."""

    use_ns = True

    def __init__(self, quirks: Quirks) -> None:
        self._quirks = quirks
        self._numbers = itertools.count(1)
        self._root = self._node(stat.S_IFDIR | 0o755)
        self._open: dict[int, Node] = {}
        self._invented = itertools.count(1000)
        self._log = Path(quirks.log).open("ab", buffering=0) if quirks.log else None  # noqa: SIM115

    def _node(self, mode: int) -> Node:
        return Node(next(self._numbers), mode)

    def _note(self, *record: object) -> None:
        if self._log is not None:
            packed = msgspec.msgpack.encode(record)
            self._log.write(len(packed).to_bytes(4, "little") + packed)

    def _refuse(self, operation: str) -> None:
        if number := self._quirks.refused.get(operation):
            raise mfusepy.FuseOSError(number)

    def _find(self, path: str) -> Node:
        node = self._root
        for name in filter(None, path.split("/")):
            found = node.names.get(self._spelled(name))
            if found is None:
                raise mfusepy.FuseOSError(errno.ENOENT)
            node = found
        return node

    def _spelled(self, name: str) -> str:
        if len(name.encode()) > self._quirks.longest_name:
            raise mfusepy.FuseOSError(errno.ENAMETOOLONG)
        return name.lower() if self._quirks.lower_case else name

    def _place(self, path: str) -> tuple[Node, str]:
        above, _, name = path.rpartition("/")
        return self._find(above), self._spelled(name)

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        node = self._find(path)
        number = next(self._invented) if self._quirks.changing_inodes else node.number
        modified = 0 if self._quirks.timeless else node.modified
        return {
            "st_ino": number,
            "st_mode": node.mode,
            "st_nlink": node.links,
            "st_size": len(node.content),
            "st_mtime": modified,
            "st_ctime": modified,
            "st_atime": modified,
            "st_uid": os.getuid(),
            "st_gid": os.getgid(),
        }

    def readdir(self, path: str, fh: int) -> list[tuple[str, dict[str, int], int]]:
        node = self._find(path)
        found = [(".", node), ("..", node), *node.names.items()]
        return [(name, {"st_mode": item.mode, "st_ino": item.number}, 0) for name, item in found]

    def create(self, path: str, mode: int, fi: Any = None) -> int:
        above, name = self._place(path)
        if name in above.names:
            raise mfusepy.FuseOSError(errno.EEXIST)
        node = above.names[name] = self._node(stat.S_IFREG | mode & 0o7777)
        self._note("create", above.number, name, node.number)
        return self._opened(node, fi)

    def open(self, path: str, fi: Any) -> int:
        return self._opened(self._find(path), fi)

    def _opened(self, node: Node, fi: Any) -> int:
        fi.fh = next(self._invented)
        self._open[fi.fh] = node
        return 0

    def release(self, path: str, fi: Any) -> int:
        del self._open[fi.fh]
        return 0

    def read(self, path: str, size: int, offset: int, fi: Any) -> bytes:
        return bytes(self._open[fi.fh].content[offset : offset + size])

    def write(self, path: str, data: bytes, offset: int, fi: Any) -> int:
        if fi.flags & os.O_DIRECT:
            self._refuse("direct")
        node = self._open[fi.fh]
        node.content.extend(bytes(max(0, offset - len(node.content))))
        node.content[offset : offset + len(data)] = data
        node.modified = time.time_ns()
        self._note("write", node.number, offset, data)
        return len(data)

    def truncate(self, path: str, length: int, fi: Any = None) -> int:
        node = self._find(path) if fi is None else self._open[fi.fh]
        del node.content[length:]
        node.content.extend(bytes(length - len(node.content)))
        self._note("truncate", node.number, length)
        return 0

    def fsync(self, path: str, datasync: int, fi: Any) -> int:
        self._refuse("sync file")
        self._note("sync file", self._open[fi.fh].number)
        return 0

    def fsyncdir(self, path: str, datasync: int, fh: int) -> int:
        self._refuse("sync directory")
        self._note("sync directory", self._find(path).number)
        return 0

    def mkdir(self, path: str, mode: int) -> int:
        above, name = self._place(path)
        if name in above.names:
            raise mfusepy.FuseOSError(errno.EEXIST)
        node = above.names[name] = self._node(stat.S_IFDIR | mode & 0o7777)
        self._note("mkdir", above.number, name, node.number)
        return 0

    def link(self, target: str, source: str) -> int:
        self._refuse("link")
        node, (above, name) = self._find(source), self._place(target)
        if name in above.names:
            raise mfusepy.FuseOSError(errno.EEXIST)
        above.names[name] = node
        node.links += 1
        self._note("link", above.number, name, node.number)
        return 0

    def rename(self, old: str, new: str) -> int:
        self._refuse("rename")
        (before, was), (after, becomes) = self._place(old), self._place(new)
        node = after.names[becomes] = before.names.pop(was)
        self._note("rename", before.number, was, after.number, becomes, node.number)
        return 0

    def unlink(self, path: str) -> int:
        above, name = self._place(path)
        above.names.pop(name).links -= 1
        self._note("unlink", above.number, name)
        return 0

    def rmdir(self, path: str) -> int:
        above, name = self._place(path)
        if above.names[name].names:
            raise mfusepy.FuseOSError(errno.ENOTEMPTY)
        del above.names[name]
        self._note("unlink", above.number, name)
        return 0

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> int:
        self._find(path).modified = times[1] if times else time.time_ns()
        return 0

    def chmod(self, path: str, mode: int) -> int:
        node = self._find(path)
        node.mode = stat.S_IFMT(node.mode) | mode & 0o7777
        return 0

    def chown(self, path: str, uid: int, gid: int) -> int:
        return 0

    def statfs(self, path: str) -> dict[str, int]:
        return {
            "f_bsize": 4096,
            "f_frsize": 4096,
            "f_blocks": 1 << 20,
            "f_bavail": 1 << 20,
            "f_bfree": 1 << 20,
        }


def records(log: Path) -> list[Record]:
    """The changes that were requested from the file system, in order."""
    content, found, place = log.read_bytes(), [], 0
    while place < len(content):
        end = place + 4 + int.from_bytes(content[place : place + 4], "little")
        found.append(tuple(msgspec.msgpack.decode(content[place + 4 : end])))
        place = end
    return found


@contextmanager
def mounted(folder: Path, quirks: Quirks) -> Iterator[Path]:
    """Mount a file system at ``folder`` while the context lasts."""
    folder.mkdir(parents=True)
    command = [
        sys.executable,
        "-m",
        "tests.lab.fuse_memory",
        str(folder),
        msgspec.json.encode(quirks).decode(),
    ]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True) as server:
        try:
            _await_mount(folder, server)
            yield folder
        finally:
            subprocess.run(["fusermount3", "-u", "-z", str(folder)], check=False, capture_output=True)
            server.terminate()


def _await_mount(folder: Path, server: subprocess.Popen[str]) -> None:
    end = time.monotonic() + _WAIT
    while not folder.is_mount():
        if server.poll() is not None or time.monotonic() > end:
            said = server.stderr.read() if server.poll() is not None and server.stderr else "nothing"
            raise RuntimeError(f"the file system did not start: {said}")
        time.sleep(0.01)


def main(folder: str, text: str) -> None:
    """Serve until unmounted."""
    quirks = msgspec.json.decode(text, type=Quirks)
    mfusepy.FUSE(
        FuseMemory(quirks),
        folder,
        raw_fi=True,
        foreground=True,
        nothreads=True,
        use_ino=True,
        hard_remove=True,
        attr_timeout=0,
        entry_timeout=0,
        fsname="fuse_memory",
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
