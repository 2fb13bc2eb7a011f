"""Selection of a job's domains and of its own points. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from puller.repository.points import Point

JOB_TAG = "job"
"""Tag of a point that a job of the configuration took: its name."""

INTERVAL_TAG = "interval"
"""Tag of a point whose job says how often it runs: a duration such as ``1d``."""

_PATTERN = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class Scope:
    """A job's own points: it took them, on one of ``hosts``, of a domain that it still matches.

    Hosts that share a repository may have jobs of one name, each with its own domains and rules: the points
    of another host belong to the job there.
    """

    job: str
    domains: tuple[str, ...]
    exclude: tuple[str, ...]
    hosts: tuple[str, ...]

    def has(self, point: Point) -> bool:
        """Return whether the point is the job's own."""
        return (
            point.tags.get(JOB_TAG) == self.job
            and point.is_from(self.hosts)
            and point.domain in select({point.domain: point.uuid}, self.domains, self.exclude)
        )


def select(known: Mapping[str, str], wanted: Sequence[str], excluded: Sequence[str]) -> list[str]:
    """Return the names of the domains that ``wanted`` matches and ``excluded`` does not, each once.

    ``known`` are libvirt's domains: the UUID of each name. A word with ``*``, ``?`` or ``[`` is a pattern
    for names. A wanted name that libvirt does not know is kept: its backup will say so.
    """
    chosen = [name for word in wanted for name in _meant(word, known) or _unless_pattern(word)]
    left_out = {name for word in excluded for name in _meant(word, known)}
    return [name for name in dict.fromkeys(chosen) if name not in left_out]


def is_pattern(word: str) -> bool:
    """Return whether ``word`` matches names by a pattern."""
    return _PATTERN.search(word) is not None


def is_uuid(word: str, uuid: str) -> bool:
    """Return whether ``word`` means this UUID; libvirt also accepts one without hyphens."""
    return word.lower().replace("-", "") == uuid.replace("-", "")


def _meant(word: str, known: Mapping[str, str]) -> list[str]:
    """Match a name before a pattern, a pattern before a UUID; libvirt also prefers names to UUIDs."""
    if word in known:
        return [word]
    if is_pattern(word):
        return sorted(name for name in known if fnmatchcase(name, word))
    return [name for name, uuid in known.items() if is_uuid(word, uuid)]


def _unless_pattern(word: str) -> list[str]:
    return [] if is_pattern(word) else [word]
