"""Names of devices as users see them."""

from __future__ import annotations

import pytest

from puller.recovery.files.devices import DeviceNames

NAMES = DeviceNames(
    ["vda", "sda", "drive-scsi0", "nvme0n1"], ["/dev/sda", "/dev/sdb", "/dev/sdc", "/dev/sdd"]
)


@pytest.mark.parametrize(
    ("user", "appliance"),
    [
        ("/dev/vda", "/dev/sda"),
        ("/dev/vda12", "/dev/sda12"),
        ("/dev/sda1", "/dev/sdb1"),
        ("/dev/drive-scsi0", "/dev/sdc"),
        ("/dev/drive-scsi0p3", "/dev/sdc3"),
        ("/dev/nvme0n1p2", "/dev/sdd2"),
        ("btrfsvol:/dev/nvme0n1p2/home", "btrfsvol:/dev/sdd2/home"),
        ("btrfsvol:/dev/vda/home", "btrfsvol:/dev/sda/home"),
        ("/dev/vg/vda", "/dev/vg/vda"),
        ("/dev/vdab", "/dev/vdab"),
    ],
)
def test_disks_have_their_targets_as_names(user: str, appliance: str) -> None:
    assert NAMES.inside(user) == appliance
    assert NAMES.outside(appliance) == user
