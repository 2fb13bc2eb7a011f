"""What puller hands to the plugin, through a pair of sockets that only the two processes have.

The keys are in it, so it is neither on a command line nor in a file nor in the environment.
"""

from __future__ import annotations

import msgspec

from puller.cancelling import WORK
from puller.repository.format.descriptor import Descriptor
from puller.repository.keys.keyring import KeyRing
from puller.repository.points import Point

CHANNEL = "channel"
"""nbdkit's parameter with the number of the inherited descriptor."""

PATHS = "PULLER_SERVE_PATHS"
"""Variable with puller's module search path, for nbdkit's own interpreter."""

INTERPRETER = "PULLER_SERVE_PYTHON"
"""Variable with the version of puller's interpreter, which nbdkit's has to be."""


class Session(msgspec.Struct, frozen=True):
    """The disks ``disks`` of ``point`` in the repository at ``url``, to be served.

    ``memory`` is the number of bytes for decrypted chunks; ``patience`` the seconds that the store may be
    silent before a read fails.
    """

    url: str
    descriptor: Descriptor
    keys: KeyRing
    point: Point
    disks: tuple[str, ...]
    memory: int
    patience: float = WORK.seconds


class Report(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line from the plugin: it is ready, or cannot begin because it ``failed``, or has a ``notice``."""

    ready: bool = False
    failed: str = ""
    advice: str = ""
    notice: str = ""


def encode(message: Session | Report) -> bytes:
    """One line."""
    return msgspec.json.encode(message) + b"\n"


def decode_session(line: bytes) -> Session:
    """The session in a line."""
    return msgspec.json.decode(line, type=Session)


def decode_report(line: bytes) -> Report:
    """The report in a line."""
    return msgspec.json.decode(line, type=Report)
