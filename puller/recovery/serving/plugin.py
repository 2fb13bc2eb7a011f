"""The script that nbdkit loads: it finds puller, and hands nbdkit the functions of ``callbacks``.

nbdkit's plugin embeds the distribution's interpreter, which knows nothing of puller's environment.
"""

import os
import sys

sys.path[:] = os.environ["PULLER_SERVE_PATHS"].split(os.pathsep)

from puller.recovery.serving.callbacks import (
    API_VERSION,
    after_fork,
    block_size,
    can_multi_conn,
    cleanup,
    config,
    default_export,
    export_description,
    extents,
    get_ready,
    get_size,
    list_exports,
    open,  # noqa: A004
    pread,
    thread_model,
)

__all__ = [
    "API_VERSION",
    "after_fork",
    "block_size",
    "can_multi_conn",
    "cleanup",
    "config",
    "default_export",
    "export_description",
    "extents",
    "get_ready",
    "get_size",
    "list_exports",
    "open",
    "pread",
    "thread_model",
]
