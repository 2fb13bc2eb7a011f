"""The mark of a rollback under way: a small file beside an image that is partly old and partly new.

It is durable before the first byte of the image changes and goes after the last one is durable. While it is
there, ``puller backup`` refuses the disk, and the rollback can be run again: it completes.

::

    web1.qcow2                     the image
    .web1.qcow2.puller-rollback    {"point": …, "disk": …, "trusted": …}

Beside a block device there is only ``/dev``, which a restart of the host empties; its mark is in
``/var/lib/puller/rollbacks``.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote

import msgspec

from puller.errors import HypervisorError
from puller.host.access import LOCAL, FileStatus, HostAccess
from puller.store.directory.mounts import sync_folder

DEVICE_MARKS = Path("/var/lib/puller/rollbacks")

_SUFFIX = ".puller-rollback"

_LIMIT = 4096
"""Bytes of a mark that are read."""


class RollbackMark(msgspec.Struct, frozen=True):
    """The rollback of ``disk`` to ``point``.

    ``trusted`` is the length in bytes, from the start of the image, in which its dirty bitmap has seen every
    change since the rollback's base point; a resize before or during the rollback is the reason for a limit.
    """

    point: str
    disk: str
    trusted: int = 0


UNREADABLE = RollbackMark("unknown", "unknown")
"""What a mark that was cut short says: a rollback began, and nothing of the bitmap may be trusted."""


def mark_path(image: Path, host: HostAccess = LOCAL) -> Path:
    """Where the mark of ``image`` is, if there is one: beside the file itself, whatever link leads to it.

    A device keeps the name that it has, since what that leads to (``/dev/dm-3``) is another after a restart.
    If the same device has a mark by another name (``/dev/vg/x``, ``/dev/mapper/vg-x``), it is that one.
    """
    found = host.status(image)
    if found is not None and found.kind == "block":
        own = DEVICE_MARKS / f"{quote(str(image), safe='')}{_SUFFIX}"
        return own if host.status(own) is not None else next(_marks_of_device(found, host), own)
    image = host.resolved(image)
    return image.with_name(f".{image.name}{_SUFFIX}")


def _marks_of_device(device: FileStatus, host: HostAccess) -> Iterator[Path]:
    for mark in host.matching(DEVICE_MARKS, f"*{_SUFFIX}"):
        named = host.status(Path(unquote(mark.name.removesuffix(_SUFFIX))))
        if named is not None and (named.kind, named.identity) == (device.kind, device.identity):
            yield mark


def find_mark(image: Path, host: HostAccess = LOCAL) -> RollbackMark | None:
    """The mark of ``image``; None if no rollback of it is under way. Raises HypervisorError.

    Who may not enter the image's directory sees no mark there: backups of running domains need no such right.
    """
    try:
        mark = host.read(mark_path(image, host), _LIMIT)
        return msgspec.json.decode(mark, type=RollbackMark)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    except (msgspec.MsgspecError, ValueError):
        return UNREADABLE
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:  # no rollback of it could put one
            return None
        raise _failed("read", image, error) from error


def put_mark(image: Path, mark: RollbackMark) -> None:
    """Put the mark, durably, in place of an older one. Raises HypervisorError."""
    path = mark_path(image)
    fresh = path.with_name(f"{path.name}.new")
    try:
        _make_directory(path.parent)
        with open(fresh, "wb", opener=_private) as file:
            file.write(msgspec.json.encode(mark))
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(path)
        sync_folder(path.parent)
    except OSError as error:
        raise _failed("write", path, error) from error


def _make_directory(path: Path) -> None:
    """Make the directory of the marks of devices, durably: a power cut must not take it away with a mark."""
    if not path.is_dir():
        _make_directory(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)
        sync_folder(path.parent)


def clear_mark(image: Path) -> None:
    """Take the mark away. Raises HypervisorError."""
    path = mark_path(image)
    if not path.exists():
        return
    try:
        path.unlink(missing_ok=True)
        sync_folder(path.parent)
    except OSError as error:
        raise _failed("remove", path, error) from error


def _private(name: str, flags: int) -> int:
    return os.open(name, flags, 0o600)


def _failed(what: str, path: Path, error: OSError) -> HypervisorError:
    return HypervisorError(
        f"cannot {what} the rollback's mark {path}: {error.strerror}",
        advice="Check that puller may write to the directory of the image.",
    )
