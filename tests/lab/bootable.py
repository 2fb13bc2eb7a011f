"""A small machine that starts from its own disk: a boot loader, a kernel and a root file system on it.

::

    vda  master boot record │ vda1: FAT with syslinux, kernel and initial file system │ vda2: ext4, the root

The initial file system mounts vda2 and starts ``/sbin/init`` there, a script of busybox's that says READY on
the serial console, answers at port 80, and starts the guest agent if its channel is there. It is up some four
seconds after it was started, without KVM. Needs syslinux, mtools, dosfstools, e2fsprogs and busybox-static.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.lab.guest import AGENT_CHANNEL, BUSYBOX, QEMU_GA, Agent, build_initramfs, libraries_of
from tests.lab.kernel import Kernel

READY = "drill-guest ready"
PORT = 80
MEMORY_MIB = 128
SECTOR = 512
MIB = 1 << 20

_BOOT, _ROOT = (1 * MIB, 40 * MIB), (41 * MIB, 32 * MIB)
"""Offset and length of the partitions."""

SIZE = _ROOT[0] + _ROOT[1]

_MBR = ("/usr/lib/syslinux/mbr/mbr.bin", "/usr/lib/SYSLINUX/mbr.bin")

_FIRST = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mkdir -p /proc /sys /dev /root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in /modules/*; do insmod "$module"; done
mount -t ext4 -o ro /dev/vda2 /root
exec switch_root /root /sbin/init
"""
"""Where the root cannot be mounted, switch_root fails, and Linux panics because its first process ends."""

_INIT = f"""#!/bin/busybox sh
export PATH=/bin
busybox mount -t proc proc /proc
busybox mount -t sysfs sysfs /sys
busybox mount -t devtmpfs devtmpfs /dev
busybox mount -t tmpfs tmpfs /run
exec </dev/console >/dev/console 2>&1
busybox ip link set eth0 up 2>/dev/null && busybox ip address add 10.0.2.15/24 dev eth0
busybox httpd -p {PORT} -h /run
for port in /sys/class/virtio-ports/*; do
    [ "$(busybox cat "$port/name" 2>/dev/null)" = {AGENT_CHANNEL} ] || continue
    /usr/sbin/qemu-ga --method=virtio-serial --path=/dev/${{port##*/}} --statedir=/run &
done
busybox grep -q drill.mute /proc/cmdline || echo "{READY}"
while :; do busybox sleep 60; done
"""

_CONFIGURATION = """SERIAL 0 115200
DEFAULT linux
PROMPT 0
LABEL linux
  KERNEL vmlinuz
  INITRD initrd.img
  APPEND console=ttyS0 quiet net.ifnames=0 mitigations=off no_timer_check
"""

Damage = Callable[[Path], None]
"""What happens to the disk before it is backed up."""


def make_disk(path: Path) -> None:
    """Make a raw disk of ``SIZE`` bytes that a machine starts from."""
    with tempfile.TemporaryDirectory(dir=path.parent) as work:
        _make_disk(path, Path(work))


def _make_disk(path: Path, work: Path) -> None:
    kernel = Kernel.find()
    first, initramfs, configuration = work / "init", work / "initrd.img", work / "syslinux.cfg"
    first.write_text(_FIRST)
    configuration.write_text(_CONFIGURATION)
    wanted = ("virtio_net", "virtio_console", "vfat")
    build_initramfs(kernel, initramfs, Agent.NONE, first, more_modules=wanted)
    with path.open("wb") as disk:
        disk.truncate(SIZE)
        disk.write(_boot_record())
    start, length = _BOOT
    _run("mkfs.vfat", "-F", "16", "--offset", str(start // SECTOR), str(path), str(length // 1024))
    for source, name in (
        (kernel.image, "vmlinuz"),
        (initramfs, "initrd.img"),
        (configuration, "syslinux.cfg"),
    ):
        _run("mcopy", "-i", f"{path}@@{start}", str(source), f"::{name}")
    _run("syslinux", "--offset", str(start), "--install", str(path))
    _copy_into(path, _ROOT[0], _root_file_system(work))


def _boot_record() -> bytes:
    """Code that starts the active partition, and the table of partitions."""
    code = next(Path(name) for name in _MBR if Path(name).exists()).read_bytes()
    table = b"".join(
        struct.pack(
            "<B3sB3sII", active, b"\xfe\xff\xff", kind, b"\xfe\xff\xff", start // SECTOR, length // SECTOR
        )
        for active, kind, (start, length) in ((0x80, 0x0E, _BOOT), (0, 0x83, _ROOT))
    )
    return code[:440].ljust(446, b"\0") + table.ljust(64, b"\0") + b"\x55\xaa"


def _root_file_system(work: Path) -> Path:
    files, image = work / "root", work / "root.img"
    for name in ("bin", "etc", "sbin", "proc", "sys", "dev", "run", "var/run"):
        (files / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, files / "bin" / "busybox")
    for source in (QEMU_GA, *libraries_of(QEMU_GA)):
        place = files / str(source)[1:]
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, place)
    (files / "etc" / "fstab").write_text("/dev/vda2 / ext4 ro 0 1\n")
    (files / "etc" / "os-release").write_text(
        'ID=debian\nNAME="Drilled"\nVERSION_ID="1"\nPRETTY_NAME="Drilled 1"\n'
    )
    (files / "sbin" / "init").write_text(_INIT)
    (files / "sbin" / "init").chmod(0o755)
    with image.open("wb") as file:
        file.truncate(_ROOT[1])
    _run("mkfs.ext4", "-q", "-F", "-m", "0", "-d", str(files), str(image))
    return image


def _copy_into(path: Path, offset: int, source: Path) -> None:
    with path.open("r+b") as disk:
        disk.seek(offset)
        disk.write(source.read_bytes())


def _run(*command: str) -> None:
    environment = os.environ | {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin", "MTOOLS_SKIP_CHECK": "1"}
    subprocess.run(command, check=True, capture_output=True, env=environment)


# --- damage -------------------------------------------------------------------------------------


def sound(path: Path) -> None:
    """Leave all as it is."""


def without_boot_loader(path: Path) -> None:
    """Overwrite the code in the master boot record and the boot sector of vda1."""
    with path.open("r+b") as disk:
        disk.write(bytes(440))
        disk.seek(_BOOT[0])
        disk.write(bytes(SECTOR))


def without_kernel(path: Path) -> None:
    """Overwrite the beginning of the kernel, whose file stays."""
    _overwrite(path, Kernel.find().image.read_bytes()[:MIB])


def without_root(path: Path) -> None:
    """Overwrite all superblocks of the root file system, and what is beside them."""
    with path.open("r+b") as disk:
        disk.seek(_ROOT[0])
        disk.write(os.urandom(_ROOT[1]))


def _overwrite(path: Path, content: bytes) -> None:
    image = path.read_bytes()
    at = image.find(content[:65536])
    assert at > 0, "the file lies in one piece on a new file system"
    with path.open("r+b") as disk:
        disk.seek(at)
        disk.write(os.urandom(len(content)))


# --- domain -------------------------------------------------------------------------------------


def domain_xml(
    name: str,
    disk: Path,
    *,
    agent: bool = False,
    screen: bool = True,
    serial: bool = True,
    uefi: bool = False,
) -> str:
    """XML of a machine that starts from ``disk``, with a network interface."""
    channel = (
        f"<channel type='unix'><target type='virtio' name='{AGENT_CHANNEL}'/></channel>" if agent else ""
    )
    video = "<video><model type='vga'/></video>" if screen else "<video><model type='none'/></video>"
    port = "<serial type='pty'/>" if serial else ""
    loader, nvram = ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd")
    flash = f"<loader readonly='yes' type='pflash'>{loader}</loader><nvram template='{nvram}'/>"
    firmware = flash if uefi else ""
    return f"""
<domain type='qemu'>
  <name>{name}</name>
  <memory unit='MiB'>{MEMORY_MIB}</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    {firmware}
  </os>
  <features><acpi/></features>
  <cpu mode='custom' match='exact'><model>qemu64</model><feature policy='require' name='rdrand'/></cpu>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/><source file='{disk}'/><target dev='vda' bus='virtio'/>
    </disk>
    <interface type='user'><mac address='52:54:00:12:34:56'/><model type='virtio'/></interface>
    {port}{channel}{video}
    <memballoon model='none'/>
  </devices>
</domain>"""
