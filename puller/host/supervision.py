"""A process that outlives puller and is started again whenever it ends.

Where systemd is process 1 and puller runs as root, it is a transient unit. Elsewhere a shell in a session of
its own starts the process again. It is found by its command line: a file with its number would be missing if
puller were killed just before it is written.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
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
    """The process of ``command``, by a ``name``. Both are unique on the host.

    ``log`` is the file that takes the output where there is no journal.
    """

    name: str
    command: tuple[str, ...]
    log: Path

    @property
    def unit(self) -> str:
        """The name of the systemd unit."""
        return f"{self.name}.service"

    @property
    def log_name(self) -> str:
        """Where its messages can be read."""
        return f"journalctl -u {self.unit}" if has_systemd() else str(self.log)

    def start(self, environment: Mapping[str, str]) -> None:
        """Start it and keep it running. Raises OSError, subprocess.SubprocessError.

        ``environment`` is for the shell. A unit's can be read by all users, so it gets none of it.
        """
        if has_systemd():
            _checked("systemd-run", *unit_options(self.unit), "--", *self.command)
            return
        self.stop()  # a process that has lost its shell
        with open(self.log, "ab", opener=_private) as log:
            subprocess.Popen(
                self._shell,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=dict(environment),
                start_new_session=True,
            )

    def is_running(self) -> bool:
        """Return whether it is kept running."""
        if has_systemd():
            return programs.run(["systemctl", "is-active", "-q", self.unit], _COMMAND_SECONDS).returncode == 0
        return bool(_groups_of(self._shell))

    def stop(self) -> None:
        """End it in order, and after 20 s at once; fine if it does not run."""
        if has_systemd():
            programs.run(["systemctl", "stop", self.unit], _COMMAND_SECONDS)
            return
        for group in _groups_of(self._shell, self.command):
            _end_group(group)

    @property
    def _shell(self) -> tuple[str, ...]:
        return (_SHELL, "-c", _AGAIN, self.name, *self.command)


def _groups_of(*commands: Sequence[str]) -> set[int]:
    """Return the groups of this user's processes that run one of the commands."""
    lines = {b"".join(word.encode() + b"\0" for word in command) for command in commands}
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (process / "cmdline").read_bytes() in lines and process.stat().st_uid == os.geteuid():
                found.add(os.getpgid(int(process.name)))
    return found


def _private(name: str, flags: int) -> int:
    return os.open(name, flags, 0o600)


def has_systemd() -> bool:
    """Return whether systemd supervises the services of root on this host."""
    return os.geteuid() == 0 and _BOOTED_BY_SYSTEMD.is_dir()


def unit_options(unit: str) -> list[str]:
    """Return the options of systemd-run(1) for a service that is started again for ever.

    When the host shuts down, it ends after the guests, which need it, and before the network.
    """
    properties = (
        "Before=libvirt-guests.service",
        "After=network.target",
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


def _end_group(group: int) -> None:
    """The shell has led the group of all processes that it has started."""
    deadline = time.monotonic() + _END_SECONDS
    scope = CancelScope()
    _signal(group, signal.SIGTERM)
    while _group_lives(group) and time.monotonic() < deadline:
        _reap(group)
        scope.pause(_STEP)
    _signal(group, signal.SIGKILL)
    _reap(group)


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
