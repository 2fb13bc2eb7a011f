"""The program: its commands, and the frame of every command."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import TextIO, cast

import click

from puller.cli.input.options import Group
from puller.cli.libraries import loading
from puller.cli.output import failures
from puller.cli.output.outcome import Outcome, present
from puller.cli.output.settings import Settings
from puller.cli.output.streams import console, journal
from puller.cli.signals import Stopped, stop_on_signals

COMMANDS = (
    "init",
    "backup",
    "run",
    "points",
    "show",
    "restore",
    "boot",
    "diff",
    "ls",
    "cat",
    "cp",
    "find",
    "versions",
    "mount",
    "serve",
    "prove",
    "copy",
    "fleet",
    "check",
    "prune",
    "delete",
    "keep",
    "release",
    "lock",
    "repair",
    "stats",
    "status",
    "report",
    "doctor",
    "freeze",
    "forget",
    "key",
    "config",
    "completion",
)
"""Each is ``command`` in the module of its name, loaded when first needed."""

_INTERNAL = ("serve_booted",)
"""Commands that puller itself calls."""


class Program(Group):
    """The group of all commands."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order in which a user needs them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load the command's module."""
        if cmd_name not in (*COMMANDS, *_INTERNAL):
            return None
        with loading():
            return cast(click.Command, import_module(f"puller.cli.commands.{cmd_name}").command)


program = Program(
    "puller",
    help="Back up libvirt/QEMU virtual machines, running or shut off, to S3 or a directory.",
    epilog="puller takes the repository's password from the first of these that is set: PULLER_PASSWORD, the "
    "file that PULLER_PASSWORD_FILE names, the configuration's password-file, the systemd credential "
    "'puller-password'. Without any of them, it asks on the terminal.",
    no_args_is_help=False,
)


def run(arguments: Sequence[str]) -> int:
    """Run the program, print its outcome, return the exit code."""
    _tolerate_any_text()
    console.begin(_reporter())
    settings = Settings.begin(os.environ, arguments)
    try:
        with settings.service as service, stop_on_signals(service.stopping):
            outcome = _outcome(arguments, settings)
            service.stopping()
            return present(outcome, settings)
    except Stopped as stop:
        return failures.translate(stop).exit_code


def _reporter() -> console.Reporter:
    if not journal.reads_stderr(os.environ):
        return console.plain
    return journal.Journal(journal.SOCKET)


def _outcome(arguments: Sequence[str], settings: Settings) -> Outcome:
    try:
        result = program.main(list(arguments), "puller", standalone_mode=False, obj=settings)
    except (Exception, Stopped) as error:  # noqa: BLE001 - the user gets one line for any exception
        return Outcome(failure=failures.translate(error))
    return result if isinstance(result, Outcome) else Outcome()


def _tolerate_any_text() -> None:
    """A name that the terminal's encoding lacks must not fail a command that has succeeded."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            cast("TextIO", stream).reconfigure(errors="backslashreplace")  # type: ignore[attr-defined]
