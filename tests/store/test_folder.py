"""What is particular to a folder: durability, modes, leftovers, and what file systems refuse."""

from __future__ import annotations

import errno
import mmap
import os
import random
import re
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

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
from puller.store.directory.folder import FolderStore, translate
from puller.store.probe import UNCONDITIONAL, UNSYNCED, honours_put_if_absent, shortcomings

PUTS = ["put", "put_new"]


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "repository")


class TestDurability:
    @pytest.mark.parametrize("put", PUTS)
    def test_content_is_synced_before_the_name_and_the_name_after(
        self, store: FolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, put: str
    ) -> None:
        target = tmp_path / "repository/packs/ab/pack"
        synced: list[tuple[str, bool]] = []
        fsync = os.fsync

        def spy(descriptor: int) -> None:
            path = Path(f"/proc/self/fd/{descriptor}").readlink()
            synced.append((str(path.relative_to(tmp_path)), target.exists()))
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", spy)
        getattr(store, put)("packs/ab/pack", b"content")
        folders, (temporary, named), last = synced[:-2], synced[-2], synced[-1]
        # Every folder that was made is held by the one above it.
        assert folders == [(".", False), ("repository", False), ("repository/packs", False)]
        assert ".tmp-" in temporary
        assert not named
        assert last == ("repository/packs/ab", True)

    @pytest.mark.parametrize("put", PUTS)
    def test_a_put_that_fails_leaves_nothing(
        self, store: FolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, put: str
    ) -> None:
        def fail(descriptor: int) -> None:
            raise OSError(errno.EIO, "the disk is broken")

        store.put("a/b", b"")
        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(StoreError, match="a/c"):
            getattr(store, put)("a/c", b"content")
        assert list((tmp_path / "repository/a").iterdir()) == [tmp_path / "repository/a/b"]

    def test_leftovers_of_a_crash_are_ignored(self, store: FolderStore, tmp_path: Path) -> None:
        store.put("points/a", b"")
        folder = tmp_path / "repository/points"
        for name in (".tmp-1234", "b.tmp-1234", ".hidden"):
            (folder / name).write_bytes(b"half")
        (tmp_path / "repository/.snapshots").mkdir()
        (tmp_path / "repository/.snapshots/c").write_bytes(b"")
        assert [info.key for info in store.list("")] == ["points/a"]
        assert (folder / ".tmp-1234").exists()

    def test_leftovers_of_a_crash_are_swept_when_they_are_old(
        self, store: FolderStore, tmp_path: Path
    ) -> None:
        store.put("points/a/b", b"")
        root = tmp_path / "repository"
        ours, theirs = ".tmp-0123456789abcdef", "b.tmp-0123456789abcdef"
        (root / ".snapshots").mkdir()
        (root / "photos").mkdir()
        places = [root, root / "points", root / "points/a", root / ".snapshots", root / "photos"]
        for folder in places:
            for name in (ours, theirs):
                (folder / name).write_bytes(b"half")
                os.utime(folder / name, (1000.0, 1000.0))
        (root / "points/.tmp-fedcba9876543210").write_bytes(b"of a put that is under way")
        store.sweep(["points/", "packs/"], 1000.0)
        assert all((folder / ours).exists() for folder in places)
        store.sweep(["points/", "packs/"], 1001.0)
        assert [(folder / ours).exists() for folder in places] == [False, False, False, True, True]
        assert all((folder / theirs).exists() for folder in places)
        assert (root / "points/.tmp-fedcba9876543210").exists()
        assert store.get("points/a/b") == b""

    def test_an_object_that_exists_is_durable_before_that_is_said(
        self, store: FolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A first try may have failed after the name was there, and the second one counts as done."""
        store.put_new("a/b", b"content")
        synced: list[Path] = []
        monkeypatch.setattr("puller.store.directory.folder.sync_folder", synced.append)
        with pytest.raises(ObjectExists):
            store.put_new("a/b", b"content")
        assert synced == [tmp_path / "repository/a"]

    def test_a_deletion_is_durable_when_it_returns(
        self, store: FolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What takes an object's place lies beside it, and is durable before the object goes."""
        for key in ("a/1", "a/2", "b/3"):
            store.put(key, b"")
        names: list[list[str]] = []

        def spy(folder: Path) -> bool:
            names.append(sorted(path.name for path in folder.iterdir()))
            return True

        monkeypatch.setattr("puller.store.directory.folder.sync_folder", spy)
        store.delete(["a/1", "b/3", "a/2", "c/absent"])
        assert names == [["1", "2"], [], ["3"], []]


def test_only_the_owner_may_read(store: FolderStore, tmp_path: Path) -> None:
    store.put("packs/ab/a", b"")
    store.put_new("packs/ab/b", b"")
    root = tmp_path / "repository"
    folders = [root, root / "packs", root / "packs/ab"]
    assert [path.stat().st_mode & 0o777 for path in folders] == [0o700] * 3
    assert [path.stat().st_mode & 0o777 for path in folders[-1].iterdir()] == [0o600] * 2


def test_keys_sort_as_on_s3(store: FolderStore) -> None:
    keys = ["a-b", "a/x", "a.b", "a0", "ab/c", "a/y/z"]
    for key in keys:
        store.put(key, b"")
    assert [info.key for info in store.list("")] == sorted(keys)


def test_a_folder_is_no_object(store: FolderStore, tmp_path: Path) -> None:
    store.put("packs/ab/a", b"")
    os.mkfifo(tmp_path / "repository/packs/pipe")
    for key in ("packs/ab", "packs/pipe"):
        for read in (store.get, store.stat, lambda key: store.get_tail(key, 1)):
            with pytest.raises(ObjectNotFound, match=f"{key} in .*: it is not a regular file"):
                read(key)
    assert [info.key for info in store.list("")] == ["packs/ab/a"]


class TestRefusals:
    @pytest.mark.parametrize("put", PUTS)
    def test_the_folder_above_is_missing(self, tmp_path: Path, put: str) -> None:
        store = FolderStore(tmp_path / "not-mounted" / "repository")
        with pytest.raises(NoBucket, match=f"the directory {tmp_path}/not-mounted does not exist"):
            getattr(store, put)("packs/a", b"")
        assert list(tmp_path.iterdir()) == []
        assert list(store.list("")) == []

    def test_a_file_in_place_of_the_folder(self, tmp_path: Path) -> None:
        (tmp_path / "repository").write_bytes(b"")
        store = FolderStore(tmp_path / "repository")
        operations: list[Callable[[], object]] = [
            lambda: store.put("a/b", b""),
            lambda: store.put("a", b""),
            lambda: store.put_new("a", b""),
            lambda: store.get("a"),
            lambda: store.stat("a"),
            lambda: list(store.list("")),
            lambda: store.delete(["a"]),
        ]
        for operation in operations:
            with pytest.raises(NoBucket, match="repository"):
                operation()

    def test_the_folder_goes_away(self, store: FolderStore, tmp_path: Path) -> None:
        store.put("a", b"")
        (tmp_path / "repository").rename(tmp_path / "unmounted")
        with pytest.raises(NoBucket, match="cannot store a"):
            store.put("a", b"")

    def test_not_allowed(self) -> None:
        """Nobody makes folders in sysfs, not even root."""
        with pytest.raises(StoreDenied, match="/sys/puller"):
            FolderStore(Path("/sys/puller")).put("a", b"")

    def test_delete_goes_on_after_a_failure(self, store: FolderStore, tmp_path: Path) -> None:
        store.put("a", b"")
        (tmp_path / "repository/folder").mkdir()
        with pytest.raises(StoreError, match="cannot delete folder"):
            store.delete(["folder", "a"])
        assert list(store.list("")) == []

    def test_no_hard_links(self, store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
        def link(*_: object, **__: object) -> None:
            raise PermissionError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(os, "link", link)
        with pytest.raises(UnsupportedByStore, match="hard links"):
            store.put_new("a", b"")
        assert not honours_put_if_absent(store, "locks/probe-")
        assert list(store.list("")) == []

    @pytest.mark.parametrize("number", [errno.EINVAL, errno.EACCES, errno.EIO, errno.ENOSYS])
    def test_folders_that_cannot_be_synced(
        self, store: FolderStore, monkeypatch: pytest.MonkeyPatch, number: int
    ) -> None:
        """As CIFS and FUSE mounts answer. A file that cannot be synced is an error everywhere."""
        fsync = os.fsync

        def refuse(descriptor: int) -> None:
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                raise OSError(number, os.strerror(number))
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", refuse)
        monkeypatch.setattr("puller.store.directory.mounts.is_remote", lambda path: True)
        store.put("packs/ab/pack", b"content")
        store.put_new("points/a", b"1")
        assert store.get("packs/ab/pack") == b"content"
        assert shortcomings(store.url, True) == (UNSYNCED,)

    def test_a_local_disk_that_fails_to_sync_is_an_error(
        self, store: FolderStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(descriptor: int) -> None:
            raise OSError(errno.EIO, "Input/output error")

        store.put("a", b"")
        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(StoreError, match="Input/output error"):
            store.put("a", b"")

    @pytest.mark.parametrize(
        "number", [errno.ENOSYS, errno.ERANGE, errno.EACCES, errno.EIO, errno.EOPNOTSUPP]
    )
    def test_links_that_a_mount_refuses(
        self, store: FolderStore, monkeypatch: pytest.MonkeyPatch, number: int
    ) -> None:
        def link(*_: object, **__: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "link", link)
        monkeypatch.setattr("puller.store.directory.mounts.is_remote", lambda path: True)
        assert not honours_put_if_absent(store, "locks/probe-")
        assert shortcomings(store.url, False) == (UNCONDITIONAL,)

    def test_inodes_that_change(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """As those of mounts that make them up: an object that is the same has the same etag."""
        monkeypatch.setattr("puller.store.directory.folder.is_remote", lambda path: True)
        store = FolderStore(tmp_path)
        store.put("a", b"content")
        before = store.stat("a").etag
        copy = tmp_path / ".copy"
        shutil.copy2(tmp_path / "a", copy)
        copy.rename(tmp_path / "a")
        assert store.stat("a").etag == before

    def test_advice_is_of_folders(self, store: FolderStore) -> None:
        for number in (errno.EACCES, errno.EIO, errno.ESTALE, errno.ENOTDIR):
            advice = translate(OSError(number, "text"), "cannot store a in /mnt").advice
            assert not re.search("bucket|credentials|endpoint|policy", advice)

    @pytest.mark.parametrize(
        ("number", "kind"),
        [
            (errno.ENOSPC, StoreFull),
            (errno.EDQUOT, StoreFull),
            (errno.EACCES, StoreDenied),
            (errno.EROFS, StoreDenied),
            (errno.ESTALE, StoreUnavailable),
            (errno.EIO, StoreError),
        ],
    )
    def test_what_the_kernel_says(self, number: int, kind: type[StoreError]) -> None:
        error = translate(OSError(number, "text"), "cannot store a in /mnt")
        assert type(error) is kind
        assert str(error) == f"cannot store a in /mnt: {os.strerror(number)}"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    mount = tmp_path / "small"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mount)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


def test_a_full_disk(small_disk: Path) -> None:
    store = FolderStore(small_disk / "repository")
    store.put("a", bytes(200_000))
    for put in (store.put, store.put_new):
        with pytest.raises(StoreFull, match="b in "):
            put("b", bytes(2_000_000))
    store.put("c", bytes(200_000))
    assert [info.key for info in store.list("")] == ["a", "c"]


@pytest.mark.parametrize("shift", [0, 512, 1], ids=["a page", "half a block", "anything"])
@pytest.mark.parametrize("size", [1 << 20, (1 << 20) + 1, (3 << 20) - 1])
def test_a_large_body_is_stored_whole_wherever_it_begins(tmp_path: Path, shift: int, size: int) -> None:
    memory = mmap.mmap(-1, (3 << 20) + shift)
    memory.write(random.Random(size).randbytes(len(memory)))
    body = memoryview(memory)[shift : shift + size]
    store = FolderStore(tmp_path)
    store.put("packs/aa", body)
    assert store.get("packs/aa") == body
