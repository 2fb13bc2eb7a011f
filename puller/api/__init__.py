"""The use cases as plain functions: what ``import puller`` offers and what the command line calls.

Sizes are in bytes, rates in bytes per second, and times have a time zone. Input that cannot be carried out is
refused with UsageError before anything is touched.
"""

from __future__ import annotations

from puller.api.arguments import (
    DEFAULT_URI,
    DISCONNECT,
    KEEP,
    ImageFormat,
    KeyRole,
)
from puller.api.machines import (
    backup,
    doctor,
    forget,
    freeze,
)
from puller.api.recovery import (
    diff,
    recreate,
    restore,
    rollback,
)
from puller.api.repositories import (
    add_key,
    create_repository,
    list_keys,
    open_repository,
    read_configuration,
    remove_key,
    repair_index,
    stats,
)
from puller.api.serving import (
    serve,
)
from puller.api.upkeep import (
    check,
    delete,
    keep,
    list_kept,
    list_points,
    preview_prune,
    prune,
    release,
)

__all__ = [
    "DEFAULT_URI",
    "DISCONNECT",
    "KEEP",
    "ImageFormat",
    "KeyRole",
    "add_key",
    "backup",
    "check",
    "create_repository",
    "delete",
    "diff",
    "doctor",
    "forget",
    "freeze",
    "keep",
    "list_kept",
    "list_keys",
    "list_points",
    "open_repository",
    "preview_prune",
    "prune",
    "read_configuration",
    "recreate",
    "release",
    "remove_key",
    "repair_index",
    "restore",
    "rollback",
    "serve",
    "stats",
]
