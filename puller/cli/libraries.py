"""What the libraries of the process may take for themselves."""

from __future__ import annotations

import ctypes
import os
import sys

_M_ARENA_MAX = -8
"""Parameter of glibc's mallopt (malloc.h)."""


def restrain() -> None:
    """Keep libraries from what nobody here uses; to be called before there are threads.

    glibc gives each thread a heap of its own, which keeps ranges that were fetched and freed. OpenBLAS, which
    numpy loads, starts a thread for every core.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 2)


def silence() -> None:
    """Print nothing about errors that are raised while objects are destroyed: nobody can handle them.

    From Python 3.13 on the HTTP response of a request that was given up complains so, with a traceback.
    """
    sys.unraisablehook = lambda _: None
