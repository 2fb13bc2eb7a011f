"""Other programs, run with a time limit that holds whatever the storage does."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from contextlib import suppress
from threading import Thread
from typing import Any


def run(words: Sequence[str], seconds: float, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end and return its output. Its exit code is the caller's to look at.

    ``options`` are those of ``subprocess.Popen``. Raises FileNotFoundError, and TimeoutExpired after
    ``seconds``. ``subprocess.run`` would then wait for the killed process, which does not end as long as the
    kernel waits for a hung disk or file server for it.
    """
    child = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    )
    try:
        out, err = child.communicate(timeout=seconds)
    except BaseException:
        child.kill()
        # Somebody has to take note of its end, whenever that comes.
        Thread(target=_reap, args=(child,), name="reaper", daemon=True).start()
        raise
    return subprocess.CompletedProcess(words, child.returncode, out, err)


def _reap(child: subprocess.Popen[bytes]) -> None:
    with suppress(ValueError, OSError), child:
        child.wait()
