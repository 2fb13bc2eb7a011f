"""What libvirt has found out about this machine's QEMU, for all libvirts of the tests.

Each would start QEMU several times to ask it, which takes seconds without KVM. libvirt keeps the answers in
files, and asks again if QEMU, libvirt, the kernel, the processor or the access to KVM has changed since.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

_KEPT = Path(__file__).resolve().parents[2] / "build" / "libvirt-capabilities"


def _kept() -> Path:
    """One directory with KVM, one without: the answers of the two would push each other out."""
    return _KEPT / ("kvm" if os.access("/dev/kvm", os.R_OK | os.W_OK) else "tcg")


def lend(cache: Path) -> None:
    """Let a libvirt that will start with the cache directory ``cache`` know what is known."""
    if _kept().is_dir():
        shutil.copytree(_kept(), _within(cache), dirs_exist_ok=True)


def keep(cache: Path) -> None:
    """Keep what the libvirt with the cache directory ``cache`` has found out by itself."""
    for found in _within(cache).glob("*.xml"):
        kept = _kept() / found.name
        if not kept.exists() or kept.read_bytes() != found.read_bytes():
            _put(found, kept)


def _within(cache: Path) -> Path:
    return cache / "qemu" / "capabilities"


def _put(found: Path, kept: Path) -> None:
    """Put the file in its place whole: other processes of the tests may read it now."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent.parent) as folder:
        Path(shutil.copy(found, folder)).replace(kept)
