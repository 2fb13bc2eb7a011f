from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puller.errors import ScratchFull, UsageError
from puller.host.access import LocalHost
from puller.hypervisor.space import scratch
from puller.hypervisor.space.scratchwatch import FLOOR, HORIZON, INTERVAL, Forecast
from puller.units import GIB, MIB, TIB
from tests.hypervisor.test_disk import disk


def test_the_default_folder_is_that_of_the_first_image() -> None:
    state = Path("/state")
    image = disk("vdb", path=Path("/images/b.qcow2"))
    device = disk("vda", type="block", path=Path("/dev/vg/a"))
    network = disk("vdc", type="network", path=None)
    assert scratch.default_directory([device, network, image], state) == Path("/images")
    assert scratch.default_directory([device, network], state) == state


@given(st.lists(st.integers(0, 100 * TIB), max_size=5))
def test_a_twentieth_of_the_disks_is_asked_for_and_never_less_than_256_mib(sizes: list[int]) -> None:
    required = scratch.required_bytes(sizes)
    assert required >= 256 * MIB
    assert required == max(256 * MIB, sum(sizes) // 20)
    assert scratch.required_bytes([*sizes, GIB]) >= required


def test_a_folder_without_room_is_refused(tmp_path: Path) -> None:
    status = os.statvfs(tmp_path)
    free = status.f_bavail * status.f_frsize
    scratch.check_free(tmp_path, free // 2)
    with pytest.raises(
        ScratchFull, match=f"scratch directory {tmp_path} has .* free, but .* are needed"
    ) as caught:
        scratch.check_free(tmp_path, free * 2 + GIB)
    assert "--scratch-dir" in caught.value.advice


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot use the .* directory .*: No such file or directory"):
        scratch.check_free(tmp_path / "none", 1)


@given(st.integers(0, 2 * GIB), st.integers(0, 100 * GIB), st.floats(0.5, 30))
def test_a_steady_writer_is_let_pass_only_while_there_is_room_for_two_seconds(
    rate: int, free: int, late: float
) -> None:
    """Looks may come late on a busy host. The first one knows no rate."""
    forecast, now, step = Forecast(), 0.0, INTERVAL * late
    forecast.reserve(now, free)
    for _ in range(100):
        now, free = now + step, free - int(rate * step)
        if free < forecast.reserve(now, free):
            return
        assert free >= max(FLOOR, rate * HORIZON - 10)


def test_a_folder_that_stands_still_is_let_alone_down_to_the_floor() -> None:
    forecast = Forecast()
    assert [forecast.reserve(now / 10, FLOOR) for now in range(50)] == [FLOOR] * 50


def test_a_burst_that_is_over_is_forgotten_after_a_second() -> None:
    forecast = Forecast()
    forecast.reserve(0.0, 2 * GIB)
    assert forecast.reserve(0.1, GIB) > 10 * GIB
    assert [forecast.reserve(now / 10, GIB) for now in range(2, 25)][-1] == FLOOR


def test_only_files_that_were_deleted_are_told(tmp_path: Path) -> None:
    """On another host, the user of ssh may see files of QEMU's that only root may delete."""
    names = [f"puller-0123456789ab-{number}-uuid-vda.scratch" for number in (1, 2)]

    class Guarding(LocalHost):
        def remove(self, path: Path) -> None:
            if path.name == names[0]:
                raise PermissionError(13, "Permission denied")
            super().remove(path)

    for name in names:
        (tmp_path / name).touch()
    assert scratch.sweep(tmp_path, "0123456789ab", "uuid", (), host=Guarding()) == (tmp_path / names[1],)
    assert [path.name for path in tmp_path.iterdir()] == names[:1]
