"""Other programs, run with a time limit that holds even if the storage hangs."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from typing import Any

from puller.cancelling import CancelScope, NoAnswer


def run(
    words: Sequence[str],
    seconds: float,
    scope: CancelScope | None = None,
    content: bytes | None = None,
    **options: Any,
) -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end and return its output. The caller checks its exit code.

    The program reads ``content`` from its standard input, or nothing. ``options`` are those of
    ``subprocess.Popen``. Raises FileNotFoundError, TimeoutExpired after ``seconds``,
    and Interrupted when ``scope`` is cancelled. ``subprocess.run`` would then wait for the killed process,
    which does not end as long as the kernel waits for a hung disk or file server for it.
    """
    waits = scope or CancelScope()
    source = subprocess.DEVNULL if content is None else subprocess.PIPE
    child = subprocess.Popen(words, stdin=source, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
    deadline = time.monotonic() + seconds
    try:
        # The abandoned thread collects its exit status, whenever it ends.
        out, err = waits.call(lambda: child.communicate(content), lambda: deadline - time.monotonic())
    except NoAnswer:
        child.kill()
        waits.check()
        raise subprocess.TimeoutExpired(words, seconds) from None
    except BaseException:
        child.kill()
        raise
    return subprocess.CompletedProcess(words, child.returncode, out, err)
