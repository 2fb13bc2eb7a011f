"""The image server of a booted machine: the process that a supervisor keeps running.

It is started without anybody to ask for a secret. So it finds the keys of the repository, and the variables
that lead to the store, in a directory in memory that only this user can enter::

    RUNTIME/session.json    {"session", "environment"}
    RUNTIME/ready           is there while QEMU's user may connect
    RUNTIME/failure.json    {"message", "advice"}: why it could not start the last time
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from puller.cancelling import CancelScope, RetryPolicy
from puller.errors import PullerError, ServeFailed
from puller.events import Observer
from puller.host.privatefolder import make_private
from puller.host.supervision import Supervised
from puller.hypervisor.confinement import qemu_user
from puller.hypervisor.uri import configuration_directory
from puller.recovery.booting import record
from puller.recovery.booting.record import Booted
from puller.recovery.serving.process import MEMORY, ServerProcess, Service
from puller.recovery.serving.session import Session

if TYPE_CHECKING:
    from puller.repository.points import Point
    from puller.repository.repository import Repository

PATIENCE = RetryPolicy(86400.0)
"""A guest that waits for its store should not get an error for it."""

START_SECONDS = 60.0
"""Seconds for the server to start: to load Python's modules, and to read the point from a slow store."""

LOG = "server.log"

SERVE = "serve_booted"
"""The command that is the server."""

_STEP = 0.02

_PREFIXES = ("AWS_", "PULLER_", "XDG_", "LC_", "SSL_", "REQUESTS_")
_NAMES = frozenset({"HOME", "LANG", "PATH", "PYTHONPATH", "TMPDIR", "USER"})
_SECRETS = frozenset({"PULLER_PASSWORD", "PULLER_PASSWORD_FILE", "PULLER_KEY_FILE"})


class HandedOver(msgspec.Struct, frozen=True):
    """What the server needs to serve the point. The ``session`` holds keys."""

    session: Session
    environment: dict[str, str]


class _Failure(msgspec.Struct, frozen=True):
    message: str
    advice: str


def supervised(booted: Booted) -> Supervised:
    """The supervisor of the machine's server."""
    command = (sys.executable, "-m", "puller.cli", SERVE, str(booted.folder))
    return Supervised(f"puller-boot-{booted.uuid}", command, booted.folder / LOG)


def start(booted: Booted, repository: Repository, point: Point, environment: Mapping[str, str]) -> None:
    """Hand over the keys and start the server, unless it runs. Raises ServeFailed.

    It may not be ready yet: see ``wait_ready``.
    """
    # Not for the server itself, which only waits: the libraries that read a repository are large.
    from puller.recovery.serving.opening import opened_form

    supervisor, variables = supervised(booted), wanted_variables(environment)
    folder = Path(booted.runtime)
    session = Session(
        repository.store.url,
        point.point,
        MEMORY,
        opened=opened_form(repository, point),
        patience=PATIENCE.seconds,
        options=repository.store_options,
    )
    try:
        make_private(folder)
        _failure(booted).unlink(missing_ok=True)
        _write(folder / "session.json", HandedOver(session, variables))
        if not supervisor.is_running():
            supervisor.start(variables)
    except subprocess.CalledProcessError as error:
        raise ServeFailed(
            f"cannot start the image server: {error.stderr.decode(errors='replace')}"
        ) from error
    except (OSError, subprocess.SubprocessError) as error:
        raise ServeFailed(f"cannot start the image server: {error}") from error


def wanted_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that lead to the store, without secrets of the repository."""
    return {
        name: value
        for name, value in environment.items()
        if (name.startswith(_PREFIXES) or name in _NAMES or name.upper().endswith("_PROXY"))
        and name not in _SECRETS
    }


def wait_ready(booted: Booted, scope: CancelScope) -> None:
    """Wait until clients can connect. Raises ServeFailed with the server's last words."""
    deadline = time.monotonic() + START_SECONDS
    while not is_ready(booted):
        scope.check()
        _raise_failure(booted)
        if time.monotonic() > deadline:
            raise ServeFailed(
                f"the image server of {booted.name} does not start within {START_SECONDS:.0f} s",
                advice=f"Read its log ({supervised(booted).log_name}).",
            )
        scope.pause(_STEP)


def is_ready(booted: Booted) -> bool:
    """Return whether QEMU can connect to the server."""
    if not _ready(booted).exists():
        return False
    with closing(socket.socket(socket.AF_UNIX)) as client, suppress(OSError):
        client.connect(booted.socket)
        return True
    return False


def stop(booted: Booted) -> None:
    """End the server, and remove its keys and its socket; fine if all that is done."""
    supervised(booted).stop()
    Path(booted.socket).unlink(missing_ok=True)
    shutil.rmtree(booted.runtime, ignore_errors=True)


def serve(folder: Path, observer: Observer) -> None:
    """Be the server, until a signal or until nbdkit ends. Raises PullerError."""
    booted = record.read_from(folder)
    try:
        _serve(booted, observer)
    except PullerError as error:
        with suppress(OSError):  # the machine is being discarded
            _write(_failure(booted), _Failure(error.message, error.advice))
        raise


def _serve(booted: Booted, observer: Observer) -> None:
    try:
        content = (Path(booted.runtime) / "session.json").read_bytes()
    except OSError as error:
        raise ServeFailed(
            f"cannot read the keys of the server: {error}",
            advice=f"Run 'puller boot --resume {booted.name}', which hands them over again.",
        ) from error
    handed = msgspec.json.decode(content, type=HandedOver)
    os.environ.update(handed.environment)
    user = qemu_user(configuration_directory(booted.connect))
    service = Service(socket=Path(booted.socket), owner=None if user is None else str(user))
    scope = CancelScope(PATIENCE)
    _ready(booted).unlink(missing_ok=True)
    with ServerProcess(handed.session, service, observer, scope) as server:
        _ready(booted).touch()
        server.wait(scope)


def _ready(booted: Booted) -> Path:
    return Path(booted.runtime) / "ready"


def _failure(booted: Booted) -> Path:
    return Path(booted.runtime) / "failure.json"


def _raise_failure(booted: Booted) -> None:
    with suppress(OSError, msgspec.MsgspecError):
        failure = msgspec.json.decode(_failure(booted).read_bytes(), type=_Failure)
        raise ServeFailed(failure.message, advice=failure.advice)


def _write(path: Path, content: msgspec.Struct) -> None:
    """For this user only from its first byte, and never seen half written."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    with open(fresh, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(msgspec.json.encode(content))
    fresh.rename(path)
