"""The other tools: the newest of each on this machine, and whether it is out of date."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

KNOWN = {"virtnbdbackup": "2.47", "restic": "0.18.1", "rclone": "1.75.2"}
"""Releases of 2026 or shortly before. Distributions often have much older ones."""

_BY_SUBCOMMAND = ("restic", "rclone")
_UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Tool:
    """A program and its version."""

    name: str
    path: Path
    version: str

    @property
    def is_old(self) -> bool:
        """Whether a newer release is known."""
        return _ordered(self.version) < _ordered(KNOWN.get(self.name, "0"))

    def __str__(self) -> str:
        if not self.is_old:
            return self.version
        whose = "the distribution's; " if self.path.is_relative_to("/usr") else ""
        return f"{self.version} ({whose}old: {KNOWN[self.name]} is known)"


@cache
def newest(name: str) -> Tool:
    """Return the newest program of this name in the virtual environment and on the path.

    Raises FileNotFoundError.
    """
    found = [Tool(name, path, _version(path)) for path in _programs(name)]
    if not found:
        raise FileNotFoundError(f"{name} is not installed")
    return max(found, key=lambda tool: _ordered(tool.version))


def path(name: str) -> str:
    """Return the path of the newest program of this name."""
    return str(newest(name).path)


def version(name: str) -> str:
    """Return its version, and whether that is old."""
    try:
        return str(newest(name))
    except FileNotFoundError:
        return _UNKNOWN


def _programs(name: str) -> Iterator[Path]:
    folders = [str(Path(sys.executable).parent), *os.environ["PATH"].split(os.pathsep)]
    for folder in dict.fromkeys(folders):
        program = Path(folder, name)
        if program.is_file() and os.access(program, os.X_OK):
            yield program


def _version(program: Path) -> str:
    flag = "version" if program.name in _BY_SUBCOMMAND else "--version"
    said = subprocess.run([program, flag], capture_output=True, text=True, check=False)
    found = re.search(r"\d+\.\d+(\.\d+)*", said.stdout + said.stderr)
    return found[0] if found else _UNKNOWN


def _ordered(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))
