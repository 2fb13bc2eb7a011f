"""A Linux kernel for the throwaway guest: the image, and the few modules that it must load.

Standard library only, so that ``scripts/setup`` can ask ``python3 tests/lab/kernel.py`` whether this
machine has one before any environment exists.
"""

from __future__ import annotations

import gzip
import lzma
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

UNPACKED = Path(__file__).resolve().parents[2] / "build" / "guest-kernel"
"""Where scripts/setup unpacks a kernel package when no usable kernel is installed."""

WANTED = ("virtio_pci", "virtio_blk", "crc32c_generic", "ext4")
FOR_AGENT = ("virtio_console",)
"""What a guest agent needs besides: its channel is a virtio serial port."""
OPTIONAL = frozenset({"crc32c_generic"})
"""ext4 asks the crypto API for crc32c by name, so no dependency leads to it; newer kernels have none."""


class NoKernel(Exception):
    """There is no kernel that the guest could boot, or it lacks a module."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel image and the folder of its modules."""

    image: Path
    modules: Path

    @classmethod
    def find(cls) -> Kernel:
        """The newest usable kernel: one that setup unpacked, else an installed one. Raises NoKernel."""
        for root in (UNPACKED, Path("/")):
            for kernel in _kernels_under(root):
                if kernel.is_usable():
                    return kernel
        raise NoKernel("no readable kernel with virtio and ext4 on this machine; run scripts/setup")

    def is_usable(self) -> bool:
        """Whether the image may be read and all that the guest needs is built in or there as a module."""
        try:
            self.needed_modules()
        except NoKernel:
            return False
        return os.access(self.image, os.R_OK)

    def needed_modules(self, wanted: Sequence[str] = WANTED) -> dict[str, bytes]:
        """Modules to load for ``wanted``, by name, in this order. Raises NoKernel if one is missing."""
        files = {_module_name(path.name): path for path in self.modules.rglob("*.ko*")}
        built_in = {_module_name(line) for line in _lines(self.modules / "modules.builtin")}
        loaded: dict[str, bytes] = {}
        for name in wanted:
            if name not in OPTIONAL or name in files:
                _load(name, files, built_in, loaded)
        return loaded


def _kernels_under(root: Path) -> Iterator[Kernel]:
    for image in sorted(root.glob("boot/vmlinuz-*"), key=_version_order, reverse=True):
        release = image.name.removeprefix("vmlinuz-")
        for library in ("lib", "usr/lib"):
            modules = root / library / "modules" / release
            if modules.is_dir():
                yield Kernel(image, modules)


def _version_order(path: Path) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", path.name)]


def _load(name: str, files: Mapping[str, Path], built_in: set[str], loaded: dict[str, bytes]) -> None:
    """Add ``name`` to ``loaded``, its dependencies first.

    They are read from the module's own ``depends=`` field: a package that was only unpacked has no
    modules.dep, which is made on installation.
    """
    if name in loaded or name in built_in:
        return
    if name not in files:
        raise NoKernel(f"the kernel has no module {name}")
    content = _unpacked(files[name])
    field = re.search(rb"(?<!\w)depends=([^\0]*)\0", content)
    for dependency in field[1].decode().split(",") if field and field[1] else ():
        _load(_module_name(dependency), files, built_in, loaded)
    loaded[name] = content


def _module_name(path: str) -> str:
    """``kernel/lib/crc-itu-t.ko.xz`` -> ``crc_itu_t``: the spelling that the kernel itself uses."""
    return path.rpartition("/")[2].partition(".ko")[0].replace("-", "_")


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def _unpacked(path: Path) -> bytes:
    unpack: Mapping[str, Callable[[bytes], bytes]] = {
        ".ko": bytes,
        ".xz": lzma.decompress,
        ".gz": gzip.decompress,
        ".zst": _unzstd,
    }
    return unpack[path.suffix](path.read_bytes())


def _unzstd(content: bytes) -> bytes:
    # The tool, because the standard library knows zstd from Python 3.14 on only.
    return subprocess.run(["zstd", "-dc"], input=content, check=True, capture_output=True).stdout


if __name__ == "__main__":
    try:
        print(Kernel.find().image)  # noqa: T201 - the answer to scripts/setup
    except NoKernel as error:
        sys.exit(str(error))
