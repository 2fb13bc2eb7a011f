"""Room for what a restore writes."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from puller.host.allocation import allocate
from puller.recovery.targets import outputs
from puller.units import MIB


def test_what_is_expected_has_room_and_reads_as_zeros(tmp_path: Path) -> None:
    with outputs.raw(tmp_path / "disk.raw", 8 * MIB, outputs.add) as output:
        output.expect(MIB, 2 * MIB)
        output.expect(7 * MIB, MIB)
        output.write(MIB, b"x")
    status = (tmp_path / "disk.raw").stat()
    assert (status.st_size, status.st_blocks * 512 // MIB) == (8 * MIB, 3)
    assert (tmp_path / "disk.raw").read_bytes() == bytes(MIB) + b"x" + bytes(7 * MIB - 1)


def test_a_file_without_such_a_thing_is_left_alone() -> None:
    descriptor = os.open("/dev/null", os.O_RDWR)
    try:
        allocate(descriptor, 0, MIB)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EACCES, errno.EIO, errno.ENOSYS, errno.ERANGE])
def test_a_disk_that_is_complete_does_not_fail_for_what_its_folder_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """As CIFS and FUSE mounts answer: folders that cannot be synced, and no hard links."""
    fsync = os.fsync

    def refuse(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    def link(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    monkeypatch.setattr(os, "link", link)
    with outputs.raw(tmp_path / "disk.raw", MIB, outputs.add) as output:
        output.write(0, b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["disk.raw"]
