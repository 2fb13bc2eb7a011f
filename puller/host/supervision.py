"""A process that outlives puller and is started again whenever it ends.

Where systemd is process 1 and puller runs as root, it is a transient unit. Elsewhere a shell in a session of
its own starts the process again; a file says which shell that is, by its number and its start, since numbers
are used again.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from puller.cancelling import CancelScope
from puller.host import programs

_BOOTED_BY_SYSTEMD = Path("/run/systemd/system")
"""See sd_booted(3)."""

_SHELL = "/bin/sh"
_AGAIN = 'while :; do "$@"; sleep 1; done'
"""Not more often than once a second, and never given up: whoever needs the process waits for it."""

_COMMAND_SECONDS = 60.0
_END_SECONDS = 20.0
_STEP = 0.05


@dataclass(frozen=True, slots=True)
class Supervised:
    """The process of this ``name``, which is unique on the host.

    ``folder`` is a private directory for the shell's file; ``log`` takes the output where there is no
    journal.
    """

    name: str
    folder: Path
    log: Path

    @property
    def unit(self) -> str:
        """The name of the systemd unit."""
        return f"{self.name}.service"

    @property
    def log_name(self) -> str:
        """Where its messages can be read."""
        return f"journalctl -u {self.unit}" if has_systemd() else str(self.log)

    def start(self, command: Sequence[str]) -> None:
        """Start ``command`` and keep it running. Raises OSError, subprocess.SubprocessError."""
        if has_systemd():
            _checked("systemd-run", *unit_options(self.unit), "--", *command)
            return
        with open(self.log, "ab", opener=_private) as log:
            shell = subprocess.Popen(
                [_SHELL, "-c", _AGAIN, self.name, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
            )
        self._file.write_text(f"{shell.pid} {_started(shell.pid)}")

    def is_running(self) -> bool:
        """Return whether it is kept running."""
        if has_systemd():
            return programs.run(["systemctl", "is-active", "-q", self.unit], _COMMAND_SECONDS).returncode == 0
        return self._shell() is not None

    def stop(self) -> None:
        """End it in order, and after 20 s at once; fine if it does not run."""
        if has_systemd():
            programs.run(["systemctl", "stop", self.unit], _COMMAND_SECONDS)
            return
        if (shell := self._shell()) is not None:
            _end_session(shell)
        self._file.unlink(missing_ok=True)

    @property
    def _file(self) -> Path:
        return self.folder / "supervisor"

    def _shell(self) -> int | None:
        with suppress(OSError, ValueError):
            number, started = self._file.read_text().split()
            if _started(int(number)) == started:
                return int(number)
        return None


def _private(name: str, flags: int) -> int:
    return os.open(name, flags, 0o600)


def has_systemd() -> bool:
    """Return whether systemd supervises the services of root on this host."""
    return os.geteuid() == 0 and _BOOTED_BY_SYSTEMD.is_dir()


def unit_options(unit: str) -> list[str]:
    """Return the options of systemd-run(1) for a service that is started again for ever."""
    properties = (
        "Restart=always",
        "RestartSec=1",
        "StartLimitIntervalSec=0",
        "UMask=0077",
        "OOMScoreAdjust=-500",
    )
    return ["--quiet", "--collect", f"--unit={unit}", *(f"--property={each}" for each in properties)]


def _checked(*command: str) -> None:
    done = programs.run(command, _COMMAND_SECONDS)
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)


def _started(number: int) -> str:
    """Return the time at which a process started, in clock ticks: proc_pid_stat(5), field 22.

    Raises OSError if there is no such process, or only a zombie.
    """
    fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    if fields[0] == "Z":
        raise ProcessLookupError(number)
    return fields[19]


def _end_session(shell: int) -> None:
    """The shell leads the group of all processes that it has started."""
    deadline = time.monotonic() + _END_SECONDS
    scope = CancelScope()
    _signal(shell, signal.SIGTERM)
    while _group_lives(shell) and time.monotonic() < deadline:
        _reap(shell)
        scope.pause(_STEP)
    _signal(shell, signal.SIGKILL)
    _reap(shell)


def _signal(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)


def _group_lives(group: int) -> bool:
    """Return whether a process of the group is there that is not a zombie."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            fields = (process / "stat").read_text().rpartition(")")[2].split()
            if int(fields[2]) == group and fields[0] != "Z":
                return True
    return False


def _reap(number: int) -> None:
    with suppress(ChildProcessError):
        os.waitpid(number, os.WNOHANG)
