"""How a raw disk becomes a qcow2 image that keeps its data where it is, so that backups are incremental."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

IMAGES = Path("/var/lib/libvirt/images")


def commands(data: Path, image: Path, size: int) -> str:
    """Return a shell's line that makes the qcow2 ``image`` whose data is the ``size`` bytes at ``data``.

    ``qemu-img create`` overwrites the first sector of a device that it is given as the data file. So it gets
    an empty file, which ``qemu-img amend`` replaces by ``data``.
    """
    first, new = quote(f"{image}.first"), quote(str(image))
    options = quote(f"data_file={image}.first,data_file_raw=on")
    return " && ".join(
        (
            f"truncate --size {size} {first}",
            f"qemu-img create -f qcow2 -o {options} {new} {size}",
            f"qemu-img amend -f qcow2 -o {quote(f'data_file={data}')} {new}",
            f"rm {first}",
            f"qemu-img compare -f qcow2 -F raw {new} {quote(str(data))}",
        )
    )


def image_for(domain: str, target: str, data: Path) -> Path:
    """Return where the new image may be: beside a file, or where libvirt has its images."""
    home = IMAGES if Path("/dev") in data.parents else data.parent
    return home / f"{domain}-{target}.qcow2"
