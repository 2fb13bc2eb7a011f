"""The header of real images, made by qemu-img, and of anything else."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puller.hypervisor.domain.qcow2 import Header, StoredBitmap, read_header

_CORRUPT_BYTE = 79


def image(folder: Path, *options: str) -> Path:
    path = folder / "image"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, str(path), "8M"], check=True)
    return path


def test_both_versions(tmp_path: Path) -> None:
    assert read_header(image(tmp_path)) == Header(3, False, ())
    assert read_header(image(tmp_path, "-o", "compat=0.10")) == Header(2, False, ())


def test_bitmaps_by_name_in_the_presence_of_other_extensions(tmp_path: Path) -> None:
    backing = tmp_path / "backing"
    subprocess.run(["qemu-img", "create", "-q", "-f", "raw", str(backing), "8M"], check=True)
    path = image(tmp_path, "-b", str(backing), "-F", "raw")
    names = ["a", "puller-0123456789ab-20261123T050000Z-00000001", "n" * 1023]
    for name in names:
        subprocess.run(["qemu-img", "bitmap", "--add", str(path), name], check=True)
    header = read_header(path)
    assert header is not None
    assert header.bitmaps == tuple(StoredBitmap(name, False) for name in names)


def test_the_mark_of_a_corrupt_image(tmp_path: Path) -> None:
    path = image(tmp_path)
    content = bytearray(path.read_bytes())
    content[_CORRUPT_BYTE] |= 2
    path.write_bytes(content)
    assert read_header(path) == Header(3, True, ())


@pytest.mark.parametrize("content", [b"", b"QFI\xfb", b"QFI\xfb\0\0\0\x03" + bytes(60), bytes(4096)])
def test_what_is_no_image(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "image"
    path.write_bytes(content)
    assert read_header(path) is None
    assert read_header(tmp_path / "missing") is None


@given(st.integers(0, 4095), st.binary(min_size=1, max_size=16))
def test_a_damaged_header_raises_nothing(
    tmp_path_factory: pytest.TempPathFactory, at: int, noise: bytes
) -> None:
    folder = tmp_path_factory.getbasetemp() / "damaged"
    folder.mkdir(exist_ok=True)
    sound = folder / "sound"
    if not sound.exists():
        image(folder).rename(sound)
        subprocess.run(["qemu-img", "bitmap", "--add", str(sound), "one"], check=True)
    content = bytearray(sound.read_bytes())
    content[at : at + len(noise)] = noise
    (folder / "image").write_bytes(content)
    read_header(folder / "image")
