"""Folders of this host for what can be made again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_directory(repository_id: str) -> Path:
    """Return this user's cache directory of a repository. Raises OSError if there is none.

    Below ``PULLER_CACHE_DIR``, else below ``puller`` in ``XDG_CACHE_HOME``, ``~/.cache``, or ``/var/cache``
    for root without a home (as services run).
    """
    own = os.environ.get("PULLER_CACHE_DIR")
    if own:
        return Path(own) / repository_id
    xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if xdg.is_absolute():  # the XDG specification has relative ones ignored
        return xdg / "puller" / repository_id
    if os.geteuid() == 0 and not os.environ.get("HOME"):
        return Path("/var/cache/puller") / repository_id
    try:
        return Path.home() / ".cache" / "puller" / repository_id
    except RuntimeError as error:
        raise FileNotFoundError("this user has no home directory") from error


def state_directory() -> Path:
    """Return this user's directory for what must survive restarts of the host: ``/var/lib/puller`` for root.

    ``PULLER_STATE_DIR`` comes first. For other users it is ``puller`` in ``XDG_STATE_HOME`` or
    ``~/.local/state``.
    """
    if own := os.environ.get("PULLER_STATE_DIR"):
        return Path(own).absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/puller")
    xdg = Path(os.environ.get("XDG_STATE_HOME", ""))
    return (xdg if xdg.is_absolute() else Path.home() / ".local" / "state") / "puller"


def temporary_directory() -> Path:
    """Return where temporary files go: ``TMPDIR`` or ``/var/tmp``, as ``/tmp`` is often in memory."""
    return Path(os.environ.get("TMPDIR") or "/var/tmp")
