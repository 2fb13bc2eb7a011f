"""Disks of a guest with file systems of many kinds, made by libguestfs.

``python -m tests.lab.guest_files DIRECTORY`` makes ``vda`` and ``vdb`` in it, in one start of the appliance::

    vda1  ext4   /      something that inspection takes for Debian, and HOSTILE
    vda2  XFS    /home  by its label
    vda3  btrfs
    vda4  NTFS
    vda5  LVM: vg/data, ext4, /srv
    vdb   LUKS of the whole disk, in it ext4
"""

from __future__ import annotations

import io
import random
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

from puller.units import MIB
from tests.lab import luks
from tests.lab.machine import DiskSpec

FILESYSTEMS = {
    "/dev/vda1": "ext4",
    "/dev/vda2": "xfs",
    "/dev/vda3": "btrfs",
    "/dev/vda4": "ntfs",
    "/dev/vg/data": "ext4",
}
_PARTITIONS = ((1, 65), (65, 375), (375, 500), (500, 520), (520, 560))
"""In MiB. mkfs.xfs wants 300, mkfs.btrfs 109."""

SIZE = 561 * MIB
HOSTILE = "/hostile"
MTIME = 1_700_000_000
OWNER = 1234
SPARSE = 40 * MIB
FSTAB = """LABEL=root / ext4 defaults 0 1
LABEL=home /home xfs defaults 0 2
/dev/vg/data /srv ext4 defaults 0 2
"""


def payload(device: str) -> bytes:
    """What ``/payload`` of the file system on ``device`` holds: no whole number of blocks or reads."""
    return random.Random(device).randbytes(3 * MIB + 12345)


def make_disks(directory: Path) -> dict[str, Path]:
    """The images of the disks, by target, made by a process of its own."""
    luks.make_image(directory / "vdb", DiskSpec("vdb", 24 * MIB, format="raw"))
    words = [sys.executable, "-m", __name__, str(directory)]
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {target: directory / target for target in ("vda", "vdb")}


def _make(directory: Path) -> None:
    import guestfs

    handle = guestfs.GuestFS(python_return_dict=True)
    handle.set_backend("direct")
    (directory / "vda").touch()
    with (directory / "vda").open("r+b") as image:
        image.truncate(SIZE)
    for target in ("vda", "vdb"):
        handle.add_drive_opts(str(directory / target), format="raw")
    handle.launch()
    handle.part_init("/dev/sda", "gpt")
    for begin, end in _PARTITIONS:
        handle.part_add("/dev/sda", "p", begin * 2048, end * 2048 - 1)
    handle.mkfs("ext4", "/dev/sda1", label="root")
    handle.mkfs("xfs", "/dev/sda2", label="home")
    handle.mkfs("btrfs", "/dev/sda3")
    handle.mkfs("ntfs", "/dev/sda4")
    handle.pvcreate("/dev/sda5")
    handle.vgcreate("vg", ["/dev/sda5"])
    handle.lvcreate_free("data", "vg", 100)
    handle.mkfs("ext4", "/dev/vg/data")
    handle.cryptsetup_open("/dev/sdb", luks.PASSPHRASE.decode(), "secret")
    handle.mkfs("ext4", "/dev/mapper/secret")
    handle.part_set_gpt_type("/dev/sda", 5, "E6D6D379-F507-44C2-A23C-238F2A3DF928")
    for device in (*FILESYSTEMS, "/dev/mapper/secret"):
        handle.mount(device.replace("vda", "sda"), "/")
        handle.upload(str(_saved(directory, payload(device))), "/payload")
        if device == "/dev/vda1":
            _make_root(handle, directory)
        handle.umount_all()
    handle.shutdown()
    handle.close()
    (directory / "upload").unlink()


def _make_root(handle: Any, directory: Path) -> None:
    files = {
        "/etc/debian_version": "12.5\n",
        "/etc/fstab": FSTAB,
        "/etc/hostname": "of-the-lab\n",
        "/etc/os-release": 'ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Debian GNU/Linux 12"\n',
    }
    for folder in ("/bin", "/etc", "/home", "/srv", "/usr/lib", "/var/lib/dpkg", "/boot/grub"):
        handle.mkdir_p(folder)
    for path, text in files.items():
        handle.write(path, text.encode())

    handle.ln_s("etc", "/configuration")
    handle.tar_in(str(_saved(directory, _hostile())), "/", xattrs=True)


def _saved(directory: Path, content: bytes) -> Path:
    path = directory / "upload"
    path.write_bytes(content)
    return path


def _hostile() -> bytes:
    """An archive of what a copy must get right, or must not get at all."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", errors="surrogateescape") as archive:

        def add(name: str, kind: bytes = tarfile.REGTYPE, content: bytes = b"", **attributes: object) -> None:
            member = tarfile.TarInfo(f"{HOSTILE[1:]}/{name}".rstrip("/"))
            member.type, member.size = kind, len(content)
            member.uid = member.gid = OWNER
            member.mtime, member.mode = MTIME, 0o640
            for key, value in attributes.items():
                setattr(member, key, value)
            archive.addfile(member, io.BytesIO(content))

        add("", tarfile.DIRTYPE, mode=0o750)
        add("plain", content=b"plain\n", pax_headers={"SCHILY.xattr.user.colour": "blue"})
        add("linked", tarfile.LNKTYPE, linkname=f"{HOSTILE[1:]}/plain")
        add("setuid", content=b"#!/bin/sh\n", mode=0o4755)
        add("out", tarfile.SYMTYPE, linkname="../../../../../../../../../tmp")
        add("absolute", tarfile.SYMTYPE, linkname="/etc")
        add("latin-link", tarfile.SYMTYPE, linkname="to-\udcfc")
        add("device", tarfile.BLKTYPE, devmajor=8, devminor=0)
        add("pipe", tarfile.FIFOTYPE)
        add("sparse", content=b"begin".ljust(SPARSE, b"\0") + b"end")
        add("empty", content=b"")
        add("new\nline and ünïcode", content=b"odd\n")
        add("latin-\udcfc", content=b"not UTF-8\n")
        add("closed", tarfile.DIRTYPE, mode=0o555, mtime=MTIME + 1)
        add("closed/below", content=b"below\n", mode=0o400)
    return stream.getvalue()


if __name__ == "__main__":
    _make(Path(sys.argv[1]))
