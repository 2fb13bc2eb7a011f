"""The files of a point in a directory of this host, through libguestfs's own FUSE server."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from puller.errors import ApplianceFailed, UsageError
from puller.host import programs
from puller.recovery.files.appliance import ENDLESS, Refusal
from puller.recovery.files.opening import OpenedPoint

_UNMOUNT = 30.0
"""Seconds for unmounting, which waits for nothing but the kernel."""


def refuse_directory(directory: Path) -> None:
    """Raise UsageError if nothing can be mounted at ``directory``."""
    try:
        if any(directory.iterdir()):
            raise UsageError(f"{directory} is not empty", advice="Choose an empty directory.")
    except OSError as error:
        raise UsageError(
            f"cannot mount at {directory}: {error.strerror}", advice="Choose an empty directory."
        ) from error


def mount(opened: OpenedPoint, directory: Path, ready: Callable[[], None]) -> None:
    """Mount the files at ``directory``, call ``ready``, and return when they are unmounted.

    If the wait is ended otherwise, by a signal for instance, they are unmounted, even if they are in use.
    Raises ApplianceFailed.
    """
    place = directory.absolute()
    try:
        opened.appliance.call("mount_local", str(place), readonly=True)
    except Refusal as error:
        raise ApplianceFailed(f"cannot mount at {place}: {error}", advice=_advice(str(error))) from error
    try:
        ready()
        opened.appliance.call("mount_local_run", limit=ENDLESS)
    except Refusal as error:
        raise ApplianceFailed(f"the mount at {place} has failed: {error}") from error
    except BaseException:
        unmount(place)
        raise


def unmount(place: Path) -> None:
    """Unmount what is at ``place``, at once; fine if nothing is."""
    ways = [["fusermount", "-u", "-z"], ["fusermount3", "-u", "-z"]]
    if os.geteuid() == 0:
        ways.insert(0, ["umount", "--lazy"])
    for words in ways:
        with suppress(OSError, subprocess.TimeoutExpired):
            if programs.run([*words, str(place)], _UNMOUNT).returncode == 0:
                return


def _advice(message: str) -> str | None:
    if "fuse" in message.lower():
        return "Install FUSE (package fuse3), and check that this user may open /dev/fuse."
    return None
