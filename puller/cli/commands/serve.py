"""``puller serve``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from puller.cancelling import CancelScope
from puller.cli.input.access import open_or_ask, store_options
from puller.cli.input.options import OF_HOST, Command
from puller.cli.input.quantities import SIZE
from puller.cli.input.secret import Secret
from puller.cli.output.failures import complain
from puller.cli.output.outcome import Outcome
from puller.cli.output.reporting.measures import RESTORE
from puller.cli.output.reporting.progress import observing
from puller.cli.output.results.tables import table
from puller.cli.output.settings import Settings
from puller.cli.output.streams import console
from puller.cli.signals import Stopped
from puller.errors import PullerError
from puller.events import Observer
from puller.host.command import variable
from puller.units import format_bytes

if TYPE_CHECKING:
    from puller.recovery.serving.process import ServerProcess, Service

_KILLED = 128
"""What a shell adds to the number of the signal that ended a command."""

_END_SECONDS = 10.0
"""How long the command of ``--run`` may take to end after a signal."""


@click.command("serve", cls=Command)
@click.argument("point")
@OF_HOST
@click.option(
    "--disk",
    "disks",
    multiple=True,
    metavar="TARGET",
    help="Serve only this disk, such as vda. Can be repeated. Without it, all disks are served.",
)
@click.option(
    "--socket",
    metavar="PATH",
    help="Listen at this Unix socket. Without it and --port, puller makes one that only this user can reach.",
)
@click.option(
    "--socket-owner",
    metavar="USER",
    help="Let this user connect to the socket of --socket, for example libvirt-qemu. Without it, only the "
    "user who runs puller can.",
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    metavar="N",
    help="Listen at this TCP port: on loopback, where every user of this host can connect, or with "
    "--tls-certificates on all addresses.",
)
@click.option(
    "--tls-certificates",
    metavar="DIR",
    help="With --port, demand TLS and a client certificate. DIR has ca-cert.pem, server-cert.pem and "
    "server-key.pem.",
)
@click.option(
    "--writable",
    is_flag=True,
    help="Let clients write. What they write is in temporary files (in TMPDIR or /var/tmp), and gone when "
    "the server ends; the point never changes. Without it, the disks are read-only.",
)
@click.option(
    "--run",
    "program",
    metavar="COMMAND",
    help="Run this shell command once the disks are served, then end the server and exit with the command's "
    "exit code. In it, $uri is the URI of the first disk, $PULLER_URI_vda that of the disk vda, and "
    "$PULLER_EXPORTS names a JSON file with all.",
)
@click.option(
    "--cache-size",
    type=SIZE,
    metavar="SIZE",
    help="Keep this much decrypted data in memory, in bytes (for example 64M); with --cache-dir, this much "
    "fetched data in that directory.  [default: 48M; with --cache-dir 4G]",
)
@click.option(
    "--cache-dir",
    metavar="DIR",
    help="Also keep fetched data in this directory, encrypted as in the repository, for this and later "
    "servers. Without it, only memory is used.",
)
@click.pass_obj
def command(  # noqa: PLR0913, PLR0917 - one parameter for each choice that a user has
    settings: Settings,
    point: str,
    hosts: tuple[str, ...],
    disks: tuple[str, ...],
    socket: str | None,
    socket_owner: str | None,
    port: int | None,
    tls_certificates: str | None,
    writable: bool,
    program: str | None,
    cache_size: int | None,
    cache_dir: str | None,
) -> Outcome:
    """Serve the disks of a point over NBD, without restoring them.

    Each disk is an export with the name of its target, read-only unless --writable is given. The command
    prints the URIs when clients can connect, and serves until a signal ends it (exit code 0). POINT is an id,
    a unique prefix of one, DOMAIN@latest, or DOMAIN@TIME (the newest at or before TIME).
    """
    from puller.recovery.serving.process import Service

    service = Service(
        tuple(dict.fromkeys(disks)),
        None if socket is None else Path(socket).absolute(),
        socket_owner,
        port,
        None if tls_certificates is None else Path(tls_certificates).absolute(),
        writable=writable,
    ).cached(cache_size, cache_dir)
    service.check()
    with (
        observing(settings, RESTORE) as observer,
        _begin(settings, point, hosts, service, observer) as server,
    ):
        if program is not None:
            return Outcome(code=_run(program, server, settings))
        _print(server, settings)
        return Outcome(code=_serve(server, settings))


def _begin(
    settings: Settings, point: str, hosts: tuple[str, ...], service: Service, observer: Observer
) -> ServerProcess:
    """Let nbdkit's process open the repository, and only that: two would take twice the memory for days."""
    from puller.recovery.serving.process import ServerProcess
    from puller.recovery.serving.session import Session

    def attempt(url: str, secret: Secret) -> ServerProcess:
        session = Session(
            url,
            point,
            service.memory,
            hosts,
            service.disks,
            password=secret.password,
            key_file=secret.key_file,
            writable=service.writable,
            folder=None if service.folder is None else str(service.folder),
            folder_size=service.folder_size,
            options=store_options(settings),
        )
        return ServerProcess(session, service, observer)

    return open_or_ask(settings, attempt)


def _serve(server: ServerProcess, settings: Settings) -> int:
    """Wait for a signal, which is how a server is meant to end. The document is printed by now."""
    try:
        server.wait(CancelScope())
    except Stopped:
        return 0
    except PullerError as error:
        complain(error, settings)
        return error.exit_code
    return 0


def _run(program: str, server: ServerProcess, settings: Settings) -> int:
    """Run the user's command to its end; return its exit code, as a shell does."""
    if settings.json:
        _print(server, settings)
    with tempfile.NamedTemporaryFile("w", prefix="puller-exports-", suffix=".json") as file:
        json.dump(_document(server), file)
        file.flush()
        each = {variable("PULLER_URI_", item.disk): item.uri for item in server.exports}
        variables = {**os.environ, **each, "uri": server.uri(), "PULLER_EXPORTS": file.name}
        # With --json, stdout is for one document.
        output = sys.stderr if settings.json else None
        # Of a terminal, it may read only in the terminal's own process group.
        group = None if _has_terminal() else 0
        words = ["/bin/sh", "-c", program]
        with subprocess.Popen(words, env=variables, stdout=output, process_group=group) as child:
            code = _wait(child, group is not None)
    return code if code >= 0 else _KILLED - code


def _has_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _wait(child: subprocess.Popen[bytes], has_group: bool) -> int:
    """Wait for the command; a signal to puller ends it, too, with all that it has started."""
    send = partial(os.killpg, child.pid) if has_group else child.send_signal
    try:
        return child.wait()
    except BaseException:
        with suppress(ProcessLookupError):
            send(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                child.wait(_END_SECONDS)
            send(signal.SIGKILL)
        raise


def _document(server: ServerProcess) -> dict[str, Any]:
    exports = [{"disk": item.disk, "uri": item.uri, "size": item.size} for item in server.exports]
    return {"uri": server.uri(), "exports": exports}


def _print(server: ServerProcess, settings: Settings) -> None:
    if settings.json:
        console.answer(json.dumps(_document(server)))
    elif settings.verbosity >= 0:
        rows = [[item.disk, format_bytes(item.size), item.uri] for item in server.exports]
        console.answer(table(["DISK", "SIZE", "URI"], rows))
