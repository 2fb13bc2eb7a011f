"""The reporter of a service: lines with fields, sent to systemd's journal.

The journal's native protocol is one datagram for each entry: ``FIELD=value`` lines, or for a value with line
breaks ``FIELD``, its length as 64 bits little-endian, and the value. See
https://systemd.io/JOURNAL_NATIVE_PROTOCOL/.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Mapping

from puller.cli.output.streams.console import Line, plain

SOCKET = "/run/systemd/journal/socket"
IDENTIFIER = "puller"

_PATIENCE = 5.0
"""Seconds to wait for a journal that does not read."""

_NAMES = {"name": "error", "code": "exit_code", "message": "error_message", "subject": "domain"}
"""Names for fields of an error that would be unclear among those of other programs."""


def reads_stderr(environment: Mapping[str, str]) -> bool:
    """Return whether stderr is connected to the journal: ``JOURNAL_STREAM`` is its device and inode."""
    try:
        status = os.fstat(2)
    except OSError:
        return False
    return environment.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class Journal:
    """A reporter."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.settimeout(_PATIENCE)

    def __call__(self, line: Line) -> None:
        """Send the line. If the journal does not accept it, write it to stderr without fields."""
        try:
            self._socket.sendto(entry(line), self._path)
        except OSError:
            plain(line)


def entry(line: Line) -> bytes:
    """Return the datagram. Fields get the prefix ``PULLER_``, as ``domain`` is not a journal field."""
    names = {name: f"PULLER_{_NAMES.get(name, name).upper()}" for name in line.fields}
    ours = {names[name]: str(value) for name, value in line.fields.items()}
    fields = {
        "MESSAGE": line.text,
        "PRIORITY": str(line.priority),
        "SYSLOG_IDENTIFIER": IDENTIFIER,
        "PULLER_EVENT": line.event,
        **ours,
    }
    return b"".join(_field(name, value) for name, value in fields.items())


def _field(name: str, value: str) -> bytes:
    content = value.encode(errors="backslashreplace")
    if b"\n" not in content:
        return b"%s=%s\n" % (name.encode(), content)
    return b"%s\n%s%s\n" % (name.encode(), struct.pack("<Q", len(content)), content)
