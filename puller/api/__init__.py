"""The use cases as plain functions: what ``import puller`` offers and what the command line calls.

Sizes are in bytes, rates in bytes per second, and times have a time zone. Input that cannot be carried out is
refused with UsageError before anything is touched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from puller.lazy import load

if TYPE_CHECKING:
    from puller.api.arguments import (
        DEFAULT_URI,
        DISCONNECT,
        KEEP,
        ImageFormat,
        KeyRole,
        LockMode,
    )
    from puller.api.booting import (
        boot,
        discard_booted,
        find_booted,
        list_booted,
        pull_booted,
        resume_booted,
    )
    from puller.api.copying import (
        copy_points,
    )
    from puller.api.files import (
        copy_files,
        file_versions,
        find_files,
        list_files,
        mount_files,
        read_file,
    )
    from puller.api.locking import (
        lock_policy,
        repair_versions,
        set_lock,
    )
    from puller.api.machines import (
        backup,
        doctor,
        forget,
        freeze,
    )
    from puller.api.overview import (
        alarms,
        report,
        status,
    )
    from puller.api.points import (
        keep,
        list_kept,
        list_points,
        release,
    )
    from puller.api.proving import (
        prove,
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
        exercise_store,
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
        preview_prune,
        prune,
    )

__all__ = [
    "DEFAULT_URI",
    "DISCONNECT",
    "KEEP",
    "ImageFormat",
    "KeyRole",
    "LockMode",
    "add_key",
    "alarms",
    "backup",
    "boot",
    "check",
    "copy_files",
    "copy_points",
    "create_repository",
    "delete",
    "diff",
    "discard_booted",
    "doctor",
    "exercise_store",
    "file_versions",
    "find_booted",
    "find_files",
    "forget",
    "freeze",
    "keep",
    "list_booted",
    "list_files",
    "list_kept",
    "list_keys",
    "list_points",
    "lock_policy",
    "mount_files",
    "open_repository",
    "preview_prune",
    "prove",
    "prune",
    "pull_booted",
    "read_configuration",
    "read_file",
    "recreate",
    "release",
    "remove_key",
    "repair_index",
    "repair_versions",
    "report",
    "restore",
    "resume_booted",
    "rollback",
    "serve",
    "set_lock",
    "stats",
    "status",
]

_HOMES = {
    "puller.api.arguments": "DEFAULT_URI DISCONNECT KEEP ImageFormat KeyRole LockMode",
    "puller.api.booting": "boot discard_booted find_booted list_booted pull_booted resume_booted",
    "puller.api.copying": "copy_points",
    "puller.api.files": "copy_files file_versions find_files list_files mount_files read_file",
    "puller.api.locking": "lock_policy repair_versions set_lock",
    "puller.api.machines": "backup doctor forget freeze",
    "puller.api.overview": "alarms report status",
    "puller.api.points": "keep list_kept list_points release",
    "puller.api.proving": "prove",
    "puller.api.recovery": "diff recreate restore rollback",
    "puller.api.repositories": (
        "add_key create_repository exercise_store list_keys open_repository "
        "read_configuration remove_key repair_index stats"
    ),
    "puller.api.serving": "serve",
    "puller.api.upkeep": "check delete preview_prune prune",
}
"""The modules that the functions are loaded from on first use: each command needs few of them."""


if not TYPE_CHECKING:  # else a type checker would take every name for one of these

    def __getattr__(name: str) -> Any:
        return load(__name__, _HOMES, name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
