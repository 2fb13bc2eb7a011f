"""Options and arguments of the commands that look at files in a point."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from puller.cli.input.options import OF_HOST
from puller.cli.input.secret import luks_passphrases
from puller.errors import UsageError

Callback = TypeVar("Callback", bound=Callable[..., Any])

_OPTIONS = (
    OF_HOST,
    click.option(
        "--filesystem",
        metavar="DEVICE",
        help="Show only this file system, such as /dev/vda2 or /dev/vg/root. Without it, what the guest's "
        "operating system mounts.",
    ),
    click.option(
        "--disk",
        "disks",
        multiple=True,
        metavar="TARGET",
        help="Attach only this disk, such as vda. Can be repeated. Without it, all disks are attached.",
    ),
    click.option(
        "--luks-passphrase-file",
        "passphrase_files",
        multiple=True,
        metavar="FILE",
        help="Open LUKS volumes with the passphrase in FILE. Can be repeated.  [env: "
        "PULLER_LUKS_PASSPHRASE, PULLER_LUKS_PASSPHRASE_FILE]",
    ),
)


def files_options(callback: Callback) -> Callback:
    """Give a command the options that say which file systems of a point are shown, as ``choices``."""
    for option in reversed(_OPTIONS):
        callback = option(callback)
    return callback


def choices_of(
    hosts: Sequence[str], filesystem: str | None, disks: Sequence[str], passphrase_files: Sequence[str]
) -> dict[str, Any]:
    """The options as arguments of the functions of ``puller.api``. Raises UsageError."""
    return {
        "hosts": hosts,
        "filesystem": filesystem,
        "disks": disks,
        "passphrases": luks_passphrases(passphrase_files, os.environ),
    }


def split_place(place: str, whole: bool = False) -> tuple[str, str]:
    """``POINT:/PATH`` as point and path; with ``whole``, a point alone means its uppermost directory.

    The path begins at the first ``:/``: times have colons too, but no slashes. Raises UsageError.
    """
    name, separator, path = place.partition(":/")
    if name and (separator or whole):
        return name, f"/{path}"
    raise UsageError(
        f"{place!r} names no file", advice="Give the name, a colon and the absolute path: web1@latest:/etc."
    )
