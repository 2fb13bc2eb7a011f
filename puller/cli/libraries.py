"""Limits for libraries in the process, and how they are loaded."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager

_M_ARENA_MAX = -8
"""Parameter of glibc's mallopt (malloc.h)."""


def restrain() -> None:
    """Limit the memory and threads of libraries. Call it before any thread starts.

    glibc gives each thread its own heap, which does not return freed memory. OpenBLAS, which numpy loads,
    starts a thread for every core.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have no mallopt
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 2)


def silence() -> None:
    """Print nothing about errors that are raised while objects are destroyed: nobody can handle them.

    From Python 3.13 on, the HTTP response of an abandoned request would print such a traceback.
    """
    sys.unraisablehook = lambda _: None


@contextmanager
def loading() -> Generator[None]:
    """Load modules and clients without garbage collection, and leave them out of later collections.

    They stay until the process ends, but each collection would visit all of their objects.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
