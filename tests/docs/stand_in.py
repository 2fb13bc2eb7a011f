"""Stands in for ``systemctl`` and ``journalctl`` where no systemd runs: does what the unit files say.

A service is started with the environment, credentials, folders and notify socket that its file asks for and
with nothing else of the caller's; ``journalctl -u`` shows what it sends to the journal's socket. What
confines it (capabilities, system calls and so on) is left out: scripts/soak-systemd boots a real systemd
for that.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

UNITS = Path("/etc/systemd/system")
CREDENTIALS = Path("/etc/credstore")
NOTIFY = Path("/run/systemd/notify")
JOURNAL = Path("/run/systemd/journal/socket")


class Unit:
    """An instance of a template, such as ``puller-backup@nightly.service``."""

    def __init__(self, name: str) -> None:
        stem, suffix = name.rsplit(".", 1)
        template, self._instance = stem.split("@")
        self.name = name
        text = (UNITS / f"{template}@.{suffix}").read_text()
        lines = [line for line in text.splitlines() if "=" in line and not line.startswith("#")]
        self._settings = [(key, value) for key, _, value in (line.partition("=") for line in lines)]

    def all(self, key: str) -> list[str]:
        """Every value of the setting, with what ``%i``, ``%C`` and ``%d`` stand for."""
        values = [value for name, value in self._settings if name == key]
        credentials = f"/run/credentials/{self.name}"
        return [
            value.replace("%i", self._instance).replace("%C", "/var/cache").replace("%d", credentials)
            for value in values
        ]

    def one(self, key: str) -> str:
        (value,) = self.all(key)
        return value


def start(unit: Unit, folder: Path) -> int:
    """Run the service to its end; 0 if it said that it is ready and succeeded."""
    credentials = Path("/run/credentials", unit.name)
    credentials.mkdir(parents=True)
    for name in unit.all("LoadCredential"):
        if (CREDENTIALS / name).exists():
            shutil.copy(CREDENTIALS / name, credentials)
    for key, parent in (("RuntimeDirectory", "/run"), ("CacheDirectory", "/var/cache")):
        Path(parent, unit.one(key)).mkdir(mode=0o700, exist_ok=True)
    with _heard(NOTIFY) as states, _heard(JOURNAL) as entries:
        code = _run(unit, folder, credentials)
    shutil.rmtree(credentials)
    (folder / unit.name).write_text("".join(_lines(entries)))
    ready = any(b"READY=1" in state.split(b"\n") for state in states)
    return code if ready else code or 1


@contextmanager
def _heard(path: Path) -> Iterator[list[bytes]]:
    """What comes to a datagram socket meanwhile. It is read at once: Linux keeps ten datagrams only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    heard: list[bytes] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(str(path))
        reader = threading.Thread(target=lambda: heard.extend(iter(lambda: ear.recv(1 << 20), b"")))
        reader.start()
        yield heard
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.sendto(b"", str(path))
        reader.join()
    path.unlink()


def _lines(entries: list[bytes]) -> Iterator[str]:
    """As journalctl shows entries."""
    for entry in entries:
        for field in entry.decode().splitlines():
            if field.startswith("MESSAGE="):
                yield f"{time.strftime('%b %d %H:%M:%S')} host puller[1]: {field.removeprefix('MESSAGE=')}\n"


def _run(unit: Unit, folder: Path, credentials: Path) -> int:
    with (folder / f"{unit.name}.stderr").open("wb") as stderr:
        status = os.fstat(stderr.fileno())
        given = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin",
            "LANG": "C.UTF-8",
            "NOTIFY_SOCKET": str(NOTIFY),
            "JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}",
            "CREDENTIALS_DIRECTORY": str(credentials),
            # Where the libraries are and where the S3 server is not: see quickstart_scene.py.
            "PYTHONPATH": os.environ["PYTHONPATH"],
            "NO_PROXY": os.environ["NO_PROXY"],
        }
        given |= dict(pair.split("=", 1) for pair in unit.all("Environment"))
        command = unit.one("ExecStart").split()
        quiet = subprocess.DEVNULL
        return subprocess.run(
            command, cwd="/", env=given, stdin=quiet, stdout=quiet, stderr=stderr, check=False
        ).returncode


def enable(timer: Unit) -> int:
    """A timer that systemd would take: its time is one, and its service is there."""
    Unit(timer.name.replace(".timer", ".service"))
    command = ["systemd-analyze", "calendar", timer.one("OnCalendar")]
    return subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode


def main() -> int:
    folder, program, *words = Path(sys.argv[1]), *sys.argv[2:]
    match program, words:
        case "systemctl", ["enable", name]:
            return enable(Unit(name))
        case "systemctl", ["start", "--wait", name]:
            return start(Unit(name), folder)
        case "journalctl", ["-u", name]:
            sys.stdout.write((folder / name).read_text())
            return 0
    raise SystemExit(f"stand-in: {program} {' '.join(words)} is not known")


if __name__ == "__main__":
    sys.exit(main())
