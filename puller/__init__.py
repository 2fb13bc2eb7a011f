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
        diff,
        doctor,
        forget,
        list_keys,
        list_points,
        open_repository,
        preview_prune,
        prune,
        recreate,
        remove_key,
        restore,
        rollback,
        stats,
    )
    from puller.errors import PullerError
    from puller.recovery.recreation import Recreated
    from puller.recovery.rollback import RolledBack
    from puller.repository.points import Point
    from puller.repository.repository import Repository
    from puller.upkeep.retention import Policy

__version__ = "0.1.0"

__all__ = [
    "Point",
    "Policy",
    "PullerError",
    "Recreated",
    "Repository",
    "RolledBack",
    "add_key",
    "backup",
    "check",
    "create_repository",
    "delete",
    "diff",
    "doctor",
    "forget",
    "list_keys",
    "list_points",
    "open_repository",
    "preview_prune",
    "prune",
    "recreate",
    "remove_key",
    "restore",
    "rollback",
    "stats",
]

_HOMES = {
    "Point": "puller.repository.points",
    "Policy": "puller.upkeep.retention",
    "PullerError": "puller.errors",
    "Recreated": "puller.recovery.recreation",
    "Repository": "puller.repository.repository",
    "RolledBack": "puller.recovery.rollback",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'puller' has no attribute '{name}'")
    return getattr(import_module(_HOMES.get(name, "puller.api")), name)
