"""What serving a point needs: nbdkit, and its Python plugin for puller's Python."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator

from puller.diagnosis.finding import Answer, Finding, ask, ok, warn
from puller.host import programs
from puller.recovery.serving.process import INSTALL

SUBJECT = "serving"

_SECONDS = 20.0
"""How long nbdkit may take to say what it is."""

_VERSION = re.compile(r"^python_version=(\d+)\.(\d+)", re.MULTILINE)


def examine() -> Iterator[Finding]:
    """Check what ``serve``, and the commands that build upon it, need."""
    yield ask("nbdkit", SUBJECT, nbdkit)


def nbdkit() -> Answer:
    """Look for nbdkit and its plugin."""
    try:
        done = programs.run(["nbdkit", "--dump-plugin", "python"], _SECONDS)
    except FileNotFoundError:
        return warn("nbdkit is not installed; points cannot be served", INSTALL)
    except subprocess.TimeoutExpired:
        return warn(
            f"nbdkit does not answer within {_SECONDS:.0f} s", "Run 'nbdkit --dump-plugin python' to see why."
        )
    found = _VERSION.search(done.stdout.decode(errors="replace"))
    if done.returncode or found is None:
        return warn("nbdkit has no Python plugin; points cannot be served", INSTALL)
    version, ours = (int(found[1]), int(found[2])), sys.version_info[:2]
    text = f"nbdkit's Python plugin runs Python {version[0]}.{version[1]}"
    if version != ours:
        return warn(
            f"{text}, but puller runs {ours[0]}.{ours[1]}; points cannot be served",
            "Install puller with the distribution's Python, /usr/bin/python3.",
        )
    return ok(text)
