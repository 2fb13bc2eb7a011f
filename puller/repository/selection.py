"""Which domains a job means, and which points are its own. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from puller.repository.points import Point

JOB_TAG = "job"
"""Tag of a point that a job of the configuration took: its name."""

_PATTERN = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class Scope:
    """The points that are a job's own: it took them, on one of ``hosts``, of a domain that it still means.

    Hosts that share a repository may have jobs of one name, each with domains and rules of its own: what
    another host has taken, its own job judges.
    """

    job: str
    domains: tuple[str, ...]
    exclude: tuple[str, ...]
    hosts: tuple[str, ...]

    def has(self, point: Point) -> bool:
        """Whether the point is the job's own."""
        return (
            point.tags.get(JOB_TAG) == self.job
            and point.is_from(self.hosts)
            and point.domain in select({point.domain: point.uuid}, self.domains, self.exclude)
        )


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
    bare = word.lower().replace("-", "")  # libvirt takes a UUID without hyphens too
    return [name for name, uuid in known.items() if uuid.replace("-", "") == bare]


def _unless_pattern(word: str) -> list[str]:
    return [] if _PATTERN.search(word) else [word]
