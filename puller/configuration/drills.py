"""How restore drills are held: the table ``[prove]`` as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from puller.configuration.evidence import Evidence, evidence


@dataclass(frozen=True, slots=True)
class DrillSettings:
    """The table ``[prove]``. docs/drills.md describes each key; None stands for one that is not set.

    ``evidence`` has what to wait for by domain: a name, a pattern or a UUID. ``memory`` is in bytes.
    """

    evidence: Mapping[str, Evidence] = field(default_factory=dict)
    timeout: timedelta | None = None
    memory: int | None = None
    parallel: int = 1
    directory: Path | None = None
    emulate: bool = False

    def evidence_of(self, domain: str, uuid: str) -> Evidence | None:
        """Return what a domain's guest has to give: that of the first pattern that matches; None without."""
        for pattern, wanted in self.evidence.items():
            if fnmatchcase(domain, pattern) or pattern == uuid:
                return wanted
        return None


def evidences(table: Any) -> dict[str, Evidence]:
    """Read the table ``[prove.evidence]``. Raises ValueError."""
    return {pattern: evidence(word) for pattern, word in table.items()}
