"""libguestfs's appliance on machines without an installed kernel and without KVM."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tests.lab.kernel import Kernel

CACHE = Path(__file__).resolve().parents[2] / "build" / "appliance"
"""Made by the first run, 400 MB; all processes of tests share it, and supermin locks it."""


def environment() -> Mapping[str, str]:
    """The variables that let libguestfs start here: the guest's kernel, and no KVM, as for all of the lab."""
    kernel = Kernel.find()
    CACHE.mkdir(parents=True, exist_ok=True)
    return {
        "SUPERMIN_KERNEL": str(kernel.image),
        "SUPERMIN_MODULES": str(kernel.modules),
        "LIBGUESTFS_CACHEDIR": str(CACHE),
        "LIBGUESTFS_BACKEND_SETTINGS": "force_tcg",
    }
