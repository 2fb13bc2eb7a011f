"""Room for what a restore writes."""

from __future__ import annotations

import os
from pathlib import Path

from puller.agent import outputs
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
        outputs.allocate(descriptor, 0, MIB)
    finally:
        os.close(descriptor)
