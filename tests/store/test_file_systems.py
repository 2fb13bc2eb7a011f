"""Repositories on file systems that lack something: either they work completely, or ``init`` refuses them."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

import puller
from puller.errors import StoreDenied, StoreError, UnsupportedByStore
from puller.events import ignore
from puller.repository.repository import Repository
from puller.store.probe import UNCONDITIONAL, UNSYNCED, shortcomings
from puller.upkeep.checking.check import check
from puller.upkeep.checking.schedule import Reading
from puller.upkeep.pruning.prune import prune
from puller.upkeep.retention.policy import Policy
from tests.lab.fuse_memory import Quirks, mounted
from tests.lab.history import back_up, is_whole

NOW = timedelta(0)
BOOT = 60.0


def _live(url: str) -> Repository:
    """A life of a repository: backups, an incremental, deletion, prune, check, and every point is whole."""
    puller.create_repository(url, key_file=bytes(64))
    first = [*range(1, 41)]
    second = [*range(1, 3), *range(51, 89)]
    repository = puller.open_repository(url, key_file=bytes(64))
    one = back_up(repository, "a", first).commit()
    assert is_whole(repository, one, first)
    repository = puller.open_repository(url, key_file=bytes(64))
    two = back_up(repository, "a", second, one, first).commit()
    repository.points.delete([(one.uuid, one.point)])
    assert prune(repository, Policy(), NOW).packs_compacted
    repository = puller.open_repository(url, key_file=bytes(64))
    assert not check(repository, [], Reading(100.0), ignore).errors
    assert [point.point for point in repository.points.all()] == [two.point]
    assert is_whole(repository, two, second)
    return repository


def _shortcomings(repository: Repository) -> tuple[str, ...]:
    return shortcomings(repository.store.url, repository.descriptor.conditional_writes)


def _unsynced(number: int) -> Quirks:
    return Quirks({"sync directory": number})


def _unlinked(number: int) -> Quirks:
    return Quirks({"link": number})


SYNC = [errno.EINVAL, errno.EACCES, errno.EIO, errno.EPERM, errno.EOPNOTSUPP]
LINK = [errno.ENOSYS, errno.ERANGE, errno.EACCES, errno.EIO, errno.EPERM, errno.EOPNOTSUPP]
WORKS: dict[str, tuple[Quirks, tuple[str, ...]]] = {
    "nothing lacks": (Quirks(), ()),
    **{
        f"no sync of directories: {errno.errorcode[number]}": (_unsynced(number), (UNSYNCED,))
        for number in SYNC
    },
    **{f"no links: {errno.errorcode[number]}": (_unlinked(number), (UNCONDITIONAL,)) for number in LINK},
    "all at once": (
        Quirks(
            {"sync directory": errno.EIO, "link": errno.EIO, "direct": errno.EINVAL}, changing_inodes=True
        ),
        (UNCONDITIONAL, UNSYNCED),
    ),
    "no direct writes": (Quirks({"direct": errno.EINVAL}), ()),
    "inodes that change": (Quirks(changing_inodes=True), ()),
    "names of 143 bytes": (Quirks(longest_name=143), ()),
}


@pytest.mark.parametrize(("quirks", "lacking"), WORKS.values(), ids=WORKS.keys())
def test_a_file_system_that_lacks_something_works(
    tmp_path: Path, quirks: Quirks, lacking: tuple[str, ...]
) -> None:
    with mounted(tmp_path / "mount", quirks) as mount:
        assert _shortcomings(_live(str(mount / "repository"))) == lacking


REFUSED: dict[str, tuple[Quirks, type[StoreError], str]] = {
    "no sync of files": (
        Quirks({"sync file": errno.EINVAL}),
        UnsupportedByStore,
        "write and sync a file: Invalid",
    ),
    "files that fail to sync": (
        Quirks({"sync file": errno.EIO}),
        UnsupportedByStore,
        "write and sync a file: Input",
    ),
    "no renames": (
        Quirks({"rename": errno.ENOSYS}),
        UnsupportedByStore,
        "rename a file: Function not implemented",
    ),
    "renames are denied": (
        Quirks({"rename": errno.EACCES}),
        StoreDenied,
        "cannot try out the file system of",
    ),
    "other cases of names": (Quirks(lower_case=True), UnsupportedByStore, "keep names: it lists 2026"),
    "short names": (
        Quirks(longest_name=30),
        UnsupportedByStore,
        "store a name of 43 characters: File name too",
    ),
    "no times": (Quirks(timeless=True), UnsupportedByStore, "keep times of modification"),
    "direct writes that fail": (
        Quirks({"direct": errno.EIO}),
        UnsupportedByStore,
        "write and sync a file: Input",
    ),
}


@pytest.mark.parametrize(("quirks", "kind", "text"), REFUSED.values(), ids=REFUSED.keys())
def test_a_file_system_that_cannot_hold_a_repository_is_refused_by_init(
    tmp_path: Path, quirks: Quirks, kind: type[StoreError], text: str
) -> None:
    with mounted(tmp_path / "mount", quirks) as mount:
        with pytest.raises(kind, match=text) as caught:
            puller.create_repository(str(mount / "repository"))
        assert caught.value.advice
        assert list(mount.iterdir()) == []


Start = Callable[[Path, Path], None]
"""Mounts a file system at the second path, with what it needs in the first."""

_SFTP = "/usr/lib/openssh/sftp-server"


def _rclone(place: Path, mount: Path) -> None:
    (place / "behind").mkdir()
    program = str(Path(sys.executable).with_name("rclone"))
    options = [f"--config={place}/none", "--vfs-cache-mode=full", f"--cache-dir={place}/cache"]
    _run(program, "mount", "--daemon", *options, f":local:{place}/behind", str(mount))


def _sshfs(place: Path, mount: Path) -> None:
    """Over a pipe in place of ssh."""
    (place / "behind").mkdir()
    ssh = place / "ssh"
    ssh.write_text(f"#!/bin/sh\nexec {_SFTP}\n")
    ssh.chmod(0o755)
    _run("sshfs", "-o", f"ssh_command={ssh}", f"host:{place}/behind", str(mount))


def _ntfs(place: Path, mount: Path) -> None:
    _run("mkntfs", "-F", "-q", str(_image(place)))
    _run("ntfs-3g", str(_image(place)), str(mount))


def _fat_by_fuse(place: Path, mount: Path) -> None:
    _run("mkfs.vfat", str(_image(place)))
    _run("fusefat", "-o", "rw+", str(_image(place)), str(mount))


def _fat_by_kernel(place: Path, mount: Path) -> None:
    _run("mkfs.vfat", str(_image(place)))
    _run("mount", "-o", "loop", str(_image(place)), str(mount))


def _image(place: Path) -> Path:
    image = place / "image"
    if not image.exists():
        image.touch()
        os.truncate(image, 64 << 20)
    return image


def _run(*command: str) -> None:
    """Or skip the test: not every machine has these programs, or lets them mount."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=BOOT)
    except FileNotFoundError:
        pytest.skip(f"{command[0]} is not installed")
    if done.returncode:
        pytest.skip(f"{command[0]} fails here: {done.stderr}")


REAL: dict[str, tuple[Start, tuple[str, ...]]] = {
    "rclone": (_rclone, (UNCONDITIONAL,)),
    "sshfs": (_sshfs, ()),
    "ntfs-3g": (_ntfs, ()),
    "fusefat": (_fat_by_fuse, (UNCONDITIONAL,)),
    "vfat": (_fat_by_kernel, (UNCONDITIONAL,)),
}


@pytest.mark.parametrize(("start", "lacking"), REAL.values(), ids=REAL.keys())
def test_a_real_file_system(tmp_path: Path, start: Start, lacking: tuple[str, ...]) -> None:
    mount = tmp_path / "mount"
    mount.mkdir()
    start(tmp_path, mount)
    try:
        end = time.monotonic() + BOOT
        while not mount.is_mount():
            assert time.monotonic() < end
            time.sleep(0.05)
        assert _shortcomings(_live(str(mount / "repository"))) == lacking
    finally:
        subprocess.run(["umount", str(mount)], check=False, capture_output=True)
