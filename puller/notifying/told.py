"""The state of a job that was last reported on this host: by default only changes are reported."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from puller.host.folders import state_directory
from puller.notifying.ending import Ending


def is_change(ending: Ending) -> bool:
    """Return whether the job's state differs from the last recorded one, which is ``ok`` at first."""
    try:
        return _path(ending.job).read_text().strip() != ending.state
    except (OSError, ValueError):
        return not ending.is_well


def note(ending: Ending) -> None:
    """Record the state. If that fails, the next run reports it again, which does no harm."""
    path = _path(ending.job)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        fresh.write_text(f"{ending.state}\n")
        fresh.replace(path)


def _path(job: str) -> Path:
    return state_directory() / "notified" / job
