"""Timers of systemd."""

from __future__ import annotations

import subprocess
from pathlib import Path

from puller.errors import PullerError
from puller.host.programs import run

_SECONDS = 60
_RUNNING = Path("/run/systemd/system")


def enable(timer: str) -> None:
    """Let systemd start the timer at each boot, and now if it runs. Raises PullerError."""
    words = ["systemctl", "enable", *(["--now"] if _RUNNING.is_dir() else []), timer]
    try:
        done = run(words, _SECONDS)
    except FileNotFoundError as error:
        raise _failed(timer, "there is no systemctl") from error
    except subprocess.TimeoutExpired as error:
        raise _failed(timer, f"systemctl did not end within {_SECONDS} s") from error
    if done.returncode != 0:
        raise _failed(timer, done.stderr.decode(errors="replace").strip() or f"exit code {done.returncode}")


def _failed(timer: str, why: str) -> PullerError:
    return PullerError(
        f"cannot enable {timer}: {' '.join(why.split()).rstrip('.')}",
        advice=f"Install puller's systemd units, then run 'systemctl enable --now {timer}'.",
    )
