"""What the functions have in common: names of choices, and refusals of arguments that cannot be used."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, get_args

from puller.configuration.quantities import Pace
from puller.errors import UsageError
from puller.events import Notice, Observer
from puller.repository.format.compression import FAST
from puller.repository.keys.key_slots import KeyFile, Password, Secret
from puller.repository.repository import Repository
from puller.repository.writing.effort import HIGHEST, LOWEST

if TYPE_CHECKING:
    pass

DEFAULT_URI = "qemu:///system"

ImageFormat = Literal["raw", "qcow2"]
"""The format of restored image files."""

KEEP, DISCONNECT = "keep", "disconnect"
"""What ``recreate`` takes for ``network`` beside the name of one."""

KeyRole = Literal["full", "backup-only"]
"""What a key can do: everything, or all that needs no stored guest data."""

LockMode = Literal["governance", "compliance"]
"""Who can end a lock early: users with a special permission, or nobody."""


def secret_of(password: str | None, key_file: bytes | None) -> Secret | None:
    """The secret that opens a repository; None without a password and a key file. Raises UsageError."""
    if password is not None and key_file is not None:
        raise UsageError("cannot use both a password and a key file", advice="Give one of the two.")
    if key_file is not None:
        return KeyFile(key_file)
    return None if password is None else Password(password)


def check_choice(name: str, value: object, allowed: Any) -> None:
    """``allowed`` is one of the Literals above."""
    words = get_args(allowed)
    if value not in words:
        raise UsageError(f"invalid {name} '{value}'", advice=f"Set {name} to one of: {', '.join(words)}.")


def check_lists(**lists: Sequence[object]) -> None:
    """A text is a sequence too, of its letters."""
    for name, value in lists.items():
        if isinstance(value, str):
            raise UsageError(f"{name} is the text '{value}'", advice=f"Use a list: {name}=['{value}'].")


def check_times(**times: object) -> None:
    """A number would be of an unknown unit, and a text is for the command line."""
    for name, value in times.items():
        if value is not None and not isinstance(value, timedelta):
            raise UsageError(
                f"invalid {name} '{value}'", advice=f"Set {name} to a timedelta, such as timedelta(hours=36)."
            )


def check_budget(value: object) -> None:
    """True is an integer too."""
    is_known = isinstance(value, timedelta | int) and not isinstance(value, bool)
    if value is not None and not is_known:
        raise UsageError(
            f"invalid budget '{value}'", advice="Set budget to a timedelta, or to a number of bytes, an int."
        )


def check_until(value: object) -> None:
    """A date has no time of day."""
    if value is not None and not isinstance(value, datetime):
        raise UsageError(
            f"invalid until '{value}'",
            advice="Set until to a datetime, such as datetime(2027, 1, 31, tzinfo=UTC).",
        )


def check_format(value: str | None) -> None:
    """Raise UsageError for an unknown format of images."""
    if value is not None:
        check_choice("format", value, ImageFormat)


def check_level(compression: int | str) -> int | None:
    """The level of compression; None to adapt it to the store. Raises UsageError."""
    if compression == "auto":
        return None
    if compression == "fast":
        return FAST
    if not isinstance(compression, int) or not LOWEST <= compression <= HIGHEST:
        raise UsageError(
            f"invalid compression '{compression}'",
            advice=f"Use a level from {LOWEST} to {HIGHEST}, fast, or auto.",
        )
    return compression


def check_rate(limit: int | None) -> int | None:
    """The limit, in bytes per second. Raises UsageError for one that lets nothing through."""
    if limit is not None and limit < 1:
        raise UsageError(
            f"invalid limit of {limit} bytes per second", advice="Use 1 or more, or leave out the limit."
        )
    return limit


def check_pace(pace: Pace) -> Pace:
    """The pace at which disks are read. Raises UsageError."""
    if pace in {"gentle", "full"} or (isinstance(pace, int) and not isinstance(pace, bool) and pace >= 1):
        return pace
    raise UsageError(
        f"invalid pace '{pace}'", advice="Use gentle, full, or a number of bytes per second, 1 or more."
    )


def check_size(size: int) -> int:
    """The size in bytes. Raises UsageError for a negative one."""
    if size < 0:
        raise UsageError(f"invalid size of {size} bytes", advice="Use 0 or more.")
    return size


def working(repository: Repository, subject: str, observer: Observer) -> Repository:
    """The repository with the deadlines of work that would be lost; ``observer`` is told of outages."""
    return repository.within(repository.scope.working(lambda text: observer(Notice(subject, text))))
