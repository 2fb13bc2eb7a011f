"""Proofs, the verdicts of restore drills: as the JSON of docs/cli.md, and as text."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from puller.cli.output.console import printable
from puller.cli.output.times import duration, local, rfc3339

if TYPE_CHECKING:
    from puller.repository.records.proofs import Proof


def brief(proof: Proof | None) -> dict[str, Any] | None:
    """Return the members of a proof in lists, or null."""
    if proof is None:
        return None
    return {
        "time": rfc3339(proof.time),
        "verdict": proof.verdict,
        "evidence": proof.evidence or None,
        "seconds": proof.seconds,
        "reason": proof.reason,
        "host": proof.host,
    }


def full(proof: Proof | None) -> dict[str, Any] | None:
    """Return all members of a proof, or null. The screenshot is a PNG in base64."""
    if proof is None:
        return None
    picture = None if proof.screenshot is None else base64.b64encode(proof.screenshot).decode()
    return {**(brief(proof) or {}), "log": proof.log, "screenshot": picture}


def cell(proof: Proof | None) -> str:
    """Return the verdict and its time for a table."""
    return "" if proof is None else f"{proof.verdict} {local(proof.time)}"


def sentence(proof: Proof) -> str:
    """Return the verdict in one line."""
    evidence = printable(proof.evidence)
    if proof.verdict == "proven" and proof.seconds is not None:
        return f"proven: {evidence} after {duration(proof.seconds)}"
    why = printable(proof.reason)
    return f"{proof.verdict}: {why}" if why else f"{proof.verdict}: {evidence}"


def facts_of(proof: Proof | None) -> list[tuple[str, str]]:
    """Return the lines of ``show`` about the newest proof of a point."""
    if proof is None:
        return []
    drilled = f"{local(proof.time)} on {printable(proof.host)}, waiting for {printable(proof.evidence)}"
    size = "none" if proof.screenshot is None else f"{len(proof.screenshot)} bytes, see --screenshot"
    return [("proof", sentence(proof)), ("drilled", drilled), ("screenshot", size)]


def log_of(proof: Proof | None) -> list[str]:
    """Return the end of the drill's log as one block of text, if there is any."""
    lines = [] if proof is None else [printable(line) for line in proof.log.splitlines()[-_LINES:]]
    return ["\n".join(("log of the drill:", *(f"  {line}".rstrip() for line in lines)))] if lines else []


_LINES = 20
"""Most lines of a log that ``show`` prints."""
