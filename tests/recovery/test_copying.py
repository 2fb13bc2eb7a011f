"""Copies of what a hostile file system claims to hold: nothing may be written outside the destination."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

import pytest

from puller.errors import FileUnreadable, OutputFailed, UsageError
from puller.recovery.files.copying import CopiedPath, copy, filled, make_plan
from puller.recovery.files.entry import FileEntry
from puller.recovery.files.tree import GuestTree, is_plain, matches, normal, readable

Claims = Mapping[str, Sequence[tuple[str, str]]]
"""By directory: the path and the type, or ``-> target``, of each entry."""


class Tree:
    """Answers like GuestTree, and claims what no file system should."""

    def __init__(self, claims: Claims, content: bytes = b"evil") -> None:
        self._claims = claims
        self._content = content

    def entry(self, path: str) -> FileEntry:
        return _entry(path, "directory")

    def entries(self, path: str) -> Iterator[FileEntry]:
        for name, kind in self._claims.get(path, ()):
            yield _entry(name, kind, len(self._content))

    def pieces(self, path: str, size: int) -> Iterator[bytes]:
        if path.endswith("/broken"):
            raise FileUnreadable(f"cannot read {path}: Input/output error")
        yield self._content

    def attributes(self, path: str) -> dict[str, bytes]:
        return {}


def _entry(path: str, kind: str, size: int = 4) -> FileEntry:
    target = kind.removeprefix("-> ") if kind.startswith("-> ") else None
    name = kind if target is None else "symlink"
    mode = 0o755 if name == "directory" else 0o6777
    return FileEntry(path, name, size, mode, os.geteuid(), os.getegid(), 10**18, target, 1, (1, 1))


def _copy(claims: Claims, destination: Path, content: bytes = b"evil") -> CopiedPath:
    tree = cast(GuestTree, Tree(claims, content))
    (plan,) = make_plan(tree, ["/d"], f"{destination}/", force=False)
    return copy(tree, plan)


def _everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory that a copy to ``tmp_path/in`` must not touch."""
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def test_names_that_lead_elsewhere_are_skipped(tmp_path: Path, outside: Path) -> None:
    names = ["/d/..", "/d/.", "/d/", f"/d/{'../' * 20}.."]
    done = _copy({"/d": [(name, "file") for name in names]}, tmp_path / "in")
    assert [item.path for item in done.skipped] == names
    assert _everything(tmp_path) == {"out", "in", "in/d"}


def test_a_path_elsewhere_goes_by_its_last_name(tmp_path: Path, outside: Path) -> None:
    _copy({"/d": [(f"{outside}/passwd", "file"), ("/d/../../../x", "file")]}, tmp_path / "in")
    assert _everything(tmp_path) == {"out", "in", "in/d", "in/d/passwd", "in/d/x"}


def test_a_symlink_is_not_entered_by_a_directory_of_its_name(tmp_path: Path, outside: Path) -> None:
    for kind in ("directory", "file"):
        claims = {"/d": [("/d/x", kind), ("/d/x", f"-> {outside}")], "/d/x": [("/d/x/evil", "file")]}
        for order in (claims["/d"], claims["/d"][::-1]):
            with pytest.raises(OutputFailed, match="File exists"):
                _copy({**claims, "/d": order}, tmp_path / "in")
            assert _everything(tmp_path) == {"out", "in"}


def test_rights_of_the_guest_are_not_rights_here(tmp_path: Path) -> None:
    claims = {"/d": [("/d/tool", "file"), ("/d/disk", "block"), ("/d/queue", "fifo"), ("/d/odd", "unknown")]}
    done = _copy(claims, tmp_path)
    assert stat.S_IMODE((tmp_path / "d/tool").stat().st_mode) == 0o777
    assert _everything(tmp_path) == {"d", "d/tool"}
    assert len(done.skipped) == 4


def test_a_name_may_be_as_long_as_names_can_be(tmp_path: Path) -> None:
    tree = cast(GuestTree, Tree({}))
    (plan,) = make_plan(tree, ["/d"], str(tmp_path / ("\u9577" * 85)), force=False)
    copy(tree, plan)
    assert [len(os.fsencode(path.name)) for path in tmp_path.iterdir()] == [255]


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileUnreadable):
        _copy({"/d": [("/d/good", "file"), ("/d/broken", "file")]}, tmp_path)
    assert _everything(tmp_path) == set()


def test_only_blocks_with_data_are_written() -> None:
    piece = b"x" + bytes(8191) + b"y" * 10
    assert list(filled(piece)) == [(0, 4096), (8192, 8202)]
    assert list(filled(bytes(10000))) == []
    assert list(filled(b"")) == []


@pytest.mark.parametrize(
    ("path", "plain"), [("/", "/"), ("//etc/./x/../y/", "/etc/y"), ("/../../etc", "/etc")]
)
def test_paths_stay_below_the_root(path: str, plain: str) -> None:
    assert normal(path) == plain


@pytest.mark.parametrize("path", ["", "etc", "/etc\0"])
def test_paths_that_are_none(path: str) -> None:
    with pytest.raises(UsageError):
        normal(path)


def test_names() -> None:
    assert readable(b"a\0\xff\0\xc3\xbc\0") == (["a", "ü"], 1)
    assert [name for name in ("a", "..", ".", "", "a/b", "..a") if is_plain(name)] == ["a", "..a"]
    assert matches("*.conf", "/etc/a.conf")
    assert not matches("etc", "/etc/a.conf")
    assert matches("/etc/*", "/etc/x/a.conf")
