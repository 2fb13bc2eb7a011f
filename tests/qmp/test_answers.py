"""How puller interprets QEMU's answers about sources that these tests cannot have."""

from __future__ import annotations

import pytest

from puller.qmp.description import outside_files
from puller.qmp.drives import parse_drives


@pytest.mark.parametrize(
    ("file", "source"),
    [
        (
            "iscsi://web%s3cret@san:3260/iqn.2026-11.org.example:web/2",
            "iscsi://web@san:3260/iqn.2026-11.org.example:web/2",
        ),
        ("https://web:s3cret@store/a.raw", "https://web@store/a.raw"),
        ("https://:s3cret@store/a.raw", "https://@store/a.raw"),
        ("rbd:vms/web1:id=web:key=s3cret==:mon_host=mon1", "rbd:vms/web1:id=web:mon_host=mon1"),
        (
            'json:{"driver": "https", "url": "https://web:s3cret@store/a"}',
            'json:{"driver": "https", "url": "https://web@store/a"}',
        ),
        ("nbd://kvm1:10809/vda", "nbd://kvm1:10809/vda"),
        ("rbd:vms/web1@before", "rbd:vms/web1@before"),
    ],
)
def test_no_password_of_a_source_reaches_a_point(file: str, source: str) -> None:
    behind = {"format": "raw", "filename": file}
    image = {"virtual-size": 512, "backing-image": behind}
    inserted = {"file": file, "drv": "raw", "node-name": "n", "image": image}
    (drive,) = parse_drives([{"device": "vda", "removable": False, "inserted": inserted}], [], {})
    assert drive.disk.source == source
    assert drive.disk.backing == (f"raw {source}",)


def test_files_of_the_host_that_no_point_holds_are_named() -> None:
    words = "qemu -bios /fw/own.fd --kernel /boot/vmlinuz -append file=/x -fw_cfg name=opt/a,file=/etc/seed"
    words += " -fw_cfg name=opt/b,string=file -acpitable data=/fw/slic -smbios type=1,serial=7"
    assert list(outside_files(words.split())) == [
        "firmware /fw/own.fd",
        "kernel /boot/vmlinuz",
        "fw_cfg file /etc/seed",
        "ACPI table /fw/slic",
    ]
