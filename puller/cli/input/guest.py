"""Options about the guest that ``backup`` and ``freeze`` share."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from puller.cli.input.quantities import DURATION, Quantity

if TYPE_CHECKING:
    from puller.configuration.schema import Command

F = TypeVar("F", bound=Callable[..., Any])


def _command(text: str) -> Command:
    from puller.configuration.schema import Command  # loads msgspec, which a help text does not need

    words = shlex.split(text)
    if not words:
        raise ValueError("the command is empty")
    return Command(words)


GUEST_COMMAND = Quantity("command", _command)

_OPTIONS = (
    click.option(
        "--quiesce",
        type=click.Choice(["auto", "on", "off"]),
        default="auto",
        show_default=True,
        help="Freeze the guest's file systems for the instant: auto (if the guest agent answers), "
        "on (fail if it cannot), off.",
    ),
    click.option(
        "--quiesce-timeout",
        type=DURATION,
        metavar="DURATION",
        help="Give the guest agent this long to freeze, and to thaw (for example 30s).  [default: 10s]",
    ),
    click.option(
        "--quiesce-mountpoint",
        "quiesce_mountpoints",
        multiple=True,
        metavar="PATH",
        help="Freeze only this file system of the guest, such as /srv. Can be repeated. Without it, all are "
        "frozen.",
    ),
    click.option(
        "--guest-before",
        type=GUEST_COMMAND,
        metavar="COMMAND",
        help="Let the guest agent run this command in the guest before the freeze.",
    ),
    click.option(
        "--guest-after",
        type=GUEST_COMMAND,
        metavar="COMMAND",
        help="Let the guest agent run this command in the guest once it is thawed, also after a failure.",
    ),
)


def of_guest(command: F) -> F:
    """Add the options to ``command``."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
