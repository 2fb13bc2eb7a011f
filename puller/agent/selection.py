"""Which domains a job means. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

_PATTERN = re.compile(r"[*?\[]")


def select(known: Mapping[str, str], wanted: Sequence[str], excluded: Sequence[str]) -> list[str]:
    """Names of the domains that ``wanted`` means and ``excluded`` does not, each once.

    ``known`` are libvirt's domains: the UUID of each name. A word with ``*``, ``?`` or ``[`` is a pattern
    for names. A wanted name that libvirt does not know is kept: its backup will say so.
    """
    chosen = [name for word in wanted for name in _meant(word, known) or _unless_pattern(word)]
    left_out = {name for word in excluded for name in _meant(word, known)}
    return [name for name in dict.fromkeys(chosen) if name not in left_out]


def _meant(word: str, known: Mapping[str, str]) -> list[str]:
    """A name comes before a pattern, a pattern before a UUID, as for libvirt a name before a UUID."""
    if word in known:
        return [word]
    if _PATTERN.search(word):
        return sorted(name for name in known if fnmatchcase(name, word))
    return [name for name, uuid in known.items() if uuid == word.lower()]


def _unless_pattern(word: str) -> list[str]:
    return [] if _PATTERN.search(word) else [word]
