"""Translate libvirt's errors into puller's, here and nowhere else.

libvirt reports an error by a ``virErrorNumber`` and a text. A number that means one thing for a backup has
its own class; all others keep libvirt's words in a
:class:`~puller.errors.HypervisorError`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import libvirt

from puller.errors import CheckpointUnusable, HypervisorError, JobRunning, NoSuchDomain

_CLASSES: dict[int, type[HypervisorError]] = {
    libvirt.VIR_ERR_NO_DOMAIN: NoSuchDomain,
    libvirt.VIR_ERR_NO_DOMAIN_CHECKPOINT: CheckpointUnusable,
    libvirt.VIR_ERR_CHECKPOINT_INCONSISTENT: CheckpointUnusable,
    # A domain has one asynchronous job: a second one waits 30 s for the first to end, then fails.
    libvirt.VIR_ERR_OPERATION_TIMEOUT: JobRunning,
    libvirt.VIR_ERR_BLOCK_COPY_ACTIVE: JobRunning,
}


def code_of(error: libvirt.libvirtError) -> int:
    """Return the ``virErrorNumber`` of ``error``, 0 if libvirt gave none."""
    return int(error.get_error_code() or 0)


def text_of(error: libvirt.libvirtError) -> str:
    """Return libvirt's words as one line without a final full stop."""
    return " ".join(str(error.get_error_message() or error).split()).rstrip(".")


@contextmanager
def translate(doing: str, advice: str | None = None) -> Iterator[None]:
    """Raise libvirt's errors as ``HypervisorError`` or a subclass: "``doing``: libvirt's words".

    ``doing`` says what failed, and for which domain, disk or URI. ``advice`` replaces the advice of the
    class.
    """
    try:
        yield
    except libvirt.libvirtError as error:
        kind = _CLASSES.get(code_of(error), HypervisorError)
        raise kind(f"{doing}: {text_of(error)}", advice=advice) from error
    except UnicodeError as error:  # a name that cannot be passed on: libvirt's names are UTF-8
        raise HypervisorError(f"{doing}: the name is not UTF-8", advice=advice) from error
