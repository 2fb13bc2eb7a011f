"""puller: a backup agent for libvirt/QEMU virtual machines.

>>> import puller
>>> repository = puller.open_repository("s3://backups/kvm", password="…")
>>> point = puller.backup(repository, "web1", connect="qemu:///system")
>>> puller.restore(repository, point.point, output="/restore/web1")

Every error is a PullerError with ``message``, ``advice``, ``exit_code`` and ``retryable``. Names are
loaded on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from puller.api import (
        add_key,
        backup,
        check,
        create_repository,
        delete,
        doctor,
        forget,
        list_keys,
        list_points,
        open_repository,
        preview_prune,
        prune,
        remove_key,
        restore,
        stats,
    )
    from puller.cancelling import CancelScope
    from puller.errors import PullerError
    from puller.repository.points import Point
    from puller.repository.repository import Repository
    from puller.upkeep.retention import Policy

__version__ = "0.1.0"

__all__ = [
    "CancelScope",
    "Point",
    "Policy",
    "PullerError",
    "Repository",
    "add_key",
    "backup",
    "check",
    "create_repository",
    "delete",
    "doctor",
    "forget",
    "list_keys",
    "list_points",
    "open_repository",
    "preview_prune",
    "prune",
    "remove_key",
    "restore",
    "stats",
]

_HOMES = {
    "CancelScope": "puller.cancelling",
    "Point": "puller.repository.points",
    "Policy": "puller.upkeep.retention",
    "PullerError": "puller.errors",
    "Repository": "puller.repository.repository",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'puller' has no attribute '{name}'")
    return getattr(import_module(_HOMES.get(name, "puller.api")), name)
