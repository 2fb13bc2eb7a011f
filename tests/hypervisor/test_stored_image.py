"""What qemu-img says of real images, and of anything else."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from puller.errors import HypervisorError
from puller.hypervisor.domain.disks.disk import Disk, parse_disks
from puller.hypervisor.domain.disks.image import (
    image_facts,
    layout,
    stored_bitmaps,
    untracked,
    with_image_facts,
)
from puller.units import MIB

_CORRUPT_BYTE = 79


def image(folder: Path, *options: str) -> Path:
    path = folder / "image"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, str(path), "8M"], check=True)
    return path


def disk(path: Path, image_format: str = "qcow2") -> Disk:
    (found,) = parse_disks(
        f"""<domain><devices><disk type='file'><driver type='{image_format}'/><source file='{path}'/>
        <target dev='vda'/></disk></devices></domain>"""
    )
    return found


def test_both_versions_and_the_size_of_clusters(tmp_path: Path) -> None:
    recent = with_image_facts(disk(image(tmp_path, "-o", "cluster_size=2M")))
    assert (recent.compat, recent.cluster, untracked(recent)) == ("1.1", 2 * MIB, None)
    old = with_image_facts(disk(image(tmp_path, "-o", "compat=0.10")))
    assert (old.compat, old.cluster) == ("0.10", 64 << 10)
    assert str(untracked(old)).startswith("a qcow2 image of version 2 cannot hold a dirty bitmap")


def test_an_image_is_looked_into_though_the_one_behind_it_is_away(tmp_path: Path) -> None:
    path = image(tmp_path, "-u", "-b", str(tmp_path / "away"), "-F", "raw", "-o", "compat=0.10")
    assert with_image_facts(disk(path)).compat == "0.10"


def test_bitmaps_by_name_in_the_presence_of_other_extensions(tmp_path: Path) -> None:
    backing = tmp_path / "backing"
    subprocess.run(["qemu-img", "create", "-q", "-f", "raw", str(backing), "8M"], check=True)
    path = image(tmp_path, "-b", str(backing), "-F", "raw")
    names = ["a", "puller-0123456789ab-20261123T050000Z-00000001", "n" * 1023]
    for name in names:
        subprocess.run(["qemu-img", "bitmap", "--add", str(path), name], check=True)
    assert stored_bitmaps(image_facts(path, "qcow2")) == dict.fromkeys(names, frozenset({"auto"}))


def test_the_mark_of_a_corrupt_image(tmp_path: Path) -> None:
    path = image(tmp_path)
    content = bytearray(path.read_bytes())
    content[_CORRUPT_BYTE] |= 2
    path.write_bytes(content)
    assert layout(image_facts(path, "qcow2"))["corrupt"]


def broken(path: Path) -> None:
    path.write_bytes(b"QFI\xfb\0\0\0\x03" + bytes(60))


def absent(path: Path) -> None:
    path.unlink(missing_ok=True)


def without_tool(path: Path) -> None:
    os.environ["PATH"] = str(path.parent)


def hanging(path: Path) -> None:
    tool = path.parent / "qemu-img"
    tool.write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    tool.chmod(0o755)
    os.environ["PATH"] = str(path.parent)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (broken, r"^qemu-img cannot read .*image: "),
        (absent, r"^qemu-img cannot read .*image: .*No such file"),
        (without_tool, r"^qemu-img is not installed$"),
        (hanging, r"^qemu-img cannot read .*image: no answer within 0 s"),
    ],
)
def test_an_image_that_cannot_be_read_is_taken_for_one_that_can_have_a_bitmap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Callable[[Path], None], said: str
) -> None:
    """libvirt may read what this process cannot; else it is the backup that fails, with the reason."""
    monkeypatch.setenv("PATH", os.environ["PATH"])  # and put it back
    monkeypatch.setattr(
        "puller.hypervisor.domain.disks.image._INFO_SECONDS", 0.2 if fault is hanging else 60.0
    )
    found = disk(image(tmp_path))
    fault(tmp_path / "image")
    assert with_image_facts(found) == found
    assert untracked(found) is None
    with pytest.raises(HypervisorError, match=said):
        image_facts(tmp_path / "image", "qcow2")


def test_only_qcow2_is_looked_into(tmp_path: Path) -> None:
    raw = disk(image(tmp_path), "raw")
    assert with_image_facts(raw) == raw
    nowhere = replace(raw, format="qcow2", path=None)
    assert with_image_facts(nowhere) == nowhere
