"""Where a fleet runs: the words of ``--on``. Pure, and imports nothing, because ``--help`` does."""

from __future__ import annotations

import re
from dataclasses import dataclass

_LOCAL = re.compile(r"local(?::([1-9]\d{0,3}))?")
_DASK = re.compile(r"dask://([^/\s]+:\d{1,5})")


@dataclass(frozen=True, slots=True)
class Where:
    """``count`` processes of this host (None: one for each processor), or the cluster at ``scheduler``."""

    count: int | None = None
    scheduler: str | None = None


def parse(word: str) -> Where:
    """Parse ``local``, ``local:N`` or ``dask://HOST:PORT``. Raises ValueError."""
    if found := _LOCAL.fullmatch(word):
        return Where(count=None if found[1] is None else int(found[1]))
    if found := _DASK.fullmatch(word):
        return Where(scheduler=found[1])
    raise ValueError(f"invalid engine '{word}': use local, local:N or dask://HOST:PORT")
