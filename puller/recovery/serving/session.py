"""What puller and the plugin tell each other, through a pair of sockets that only these two processes have.

The password or the keys are in it, so it is neither on a command line nor in a file nor in the environment.
This module imports nothing large: the process of ``puller serve`` lives for days and does no work.
"""

from __future__ import annotations

import msgspec

from puller import errors
from puller.cancelling import WORK
from puller.errors import PullerError
from puller.store.options import DEFAULTS, StoreOptions

CHANNEL = "channel"
"""nbdkit's parameter with the number of the inherited descriptor."""

PATHS = "PULLER_SERVE_PATHS"
"""Variable with puller's module search path, for nbdkit's own interpreter."""


PYTHON = "PULLER_SERVE_PYTHON"
"""Variable with the version of puller's Python, which nbdkit's has to be."""


class Session(msgspec.Struct, frozen=True, omit_defaults=True):
    """A point, named as on the command line, in the repository at ``url``; and how to serve it.

    The repository is opened by ``password`` or ``key_file``, or by what ``opening.opened_form`` made of an
    open one. ``disks`` are the targets of the only disks to serve; ``memory`` is for decrypted chunks, in
    bytes; ``options`` those of the store; ``patience`` the seconds that the store may be silent before a read
    fails. A ``writable`` disk has a throw-away overlay. ``folder`` is for at most ``folder_size`` bytes of
    slots.
    """

    url: str
    point: str
    memory: int
    hosts: tuple[str, ...] = ()
    disks: tuple[str, ...] = ()
    password: str | None = None
    key_file: bytes | None = None
    opened: bytes | None = None
    patience: float = WORK.seconds
    writable: bool = False
    folder: str | None = None
    folder_size: int = 0
    options: StoreOptions = DEFAULTS


class Failure(msgspec.Struct, frozen=True):
    """An error of puller's: the name of its class, and its two lines."""

    name: str
    message: str
    advice: str

    @classmethod
    def of(cls, error: PullerError) -> Failure:
        """Describe ``error``."""
        return cls(type(error).__name__, error.message, error.advice)

    def error(self) -> PullerError:
        """Return the error again."""
        kind: type[PullerError] = getattr(errors, self.name, PullerError)
        return kind(self.message, advice=self.advice)


class Ready(msgspec.Struct, frozen=True):
    """Clients can connect: the point's id, and by target the size of each disk in bytes."""

    point: str
    sizes: dict[str, int]


class Report(msgspec.Struct, frozen=True, omit_defaults=True):
    """One of three: the plugin is ready, or cannot begin because it ``failed``, or has a ``notice``."""

    ready: Ready | None = None
    failed: Failure | None = None
    notice: str = ""


def encode(message: Session | Report) -> bytes:
    """Return the message as one line."""
    return msgspec.json.encode(message) + b"\n"


def decode_session(line: bytes) -> Session:
    """Return the session in a line."""
    return msgspec.json.decode(line, type=Session)


def decode_report(line: bytes) -> Report:
    """Return the report in a line."""
    return msgspec.json.decode(line, type=Report)
