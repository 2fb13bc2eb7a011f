"""The script that nbdkit loads: it finds puller, and hands nbdkit the functions of ``callbacks``.

nbdkit's plugin embeds the distribution's interpreter, which knows nothing of puller's environment.
"""

import os
import sys

sys.path[:] = os.environ["PULLER_SERVE_PATHS"].split(os.pathsep)

_FOUND, _WANTED = f"{sys.version_info[0]}.{sys.version_info[1]}", os.environ["PULLER_SERVE_PYTHON"]
if _FOUND != _WANTED:  # compiled modules of one version cannot be loaded by another
    raise RuntimeError(f"nbdkit's Python plugin runs Python {_FOUND}, but puller runs {_WANTED}")

from puller.recovery.serving.callbacks import (
    API_VERSION,
    after_fork,
    block_size,
    can_flush,
    can_fua,
    can_multi_conn,
    can_trim,
    can_write,
    can_zero,
    cleanup,
    config,
    default_export,
    export_description,
    extents,
    flush,
    get_ready,
    get_size,
    list_exports,
    open,  # noqa: A004
    pread,
    pwrite,
    thread_model,
    trim,
    zero,
)

__all__ = [
    "API_VERSION",
    "after_fork",
    "block_size",
    "can_flush",
    "can_fua",
    "can_multi_conn",
    "can_trim",
    "can_write",
    "can_zero",
    "cleanup",
    "config",
    "default_export",
    "export_description",
    "extents",
    "flush",
    "get_ready",
    "get_size",
    "list_exports",
    "open",
    "pread",
    "pwrite",
    "thread_model",
    "trim",
    "zero",
]
