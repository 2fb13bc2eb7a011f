"""Drills, the verdicts of restore drills: as the JSON of docs/cli.md, and as text."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from puller.cli.output import failures
from puller.cli.output.streams.console import printable
from puller.cli.output.times import duration, local, rfc3339
from puller.errors import DrillFailed, PartialFailure, PullerError

if TYPE_CHECKING:
    from puller.recovery.proving.prove import Drills, HeldDrill
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


def drill_document(drill: HeldDrill) -> dict[str, Any]:
    """Return the members of one drill: those of its proof, and which point it was about."""
    point = drill.point
    return {"point": point.point, "domain": point.domain, "uuid": point.uuid, **(full(drill.proof) or {})}


def document(found: Drills) -> dict[str, Any]:
    """Return the document of docs/cli.md."""
    failed = [
        {"domain": domain, "error": failures.document(failures.translate(error))}
        for domain, error in found.failed
    ]
    return {"proofs": [drill_document(drill) for drill in found.held], "failed": failed}


def text(found: Drills) -> str:
    """Return a line for each drill, and the last words of each machine that did not start."""
    return "\n".join(line for drill in found.held for line in _lines(drill)) or "no drills"


def _lines(drill: HeldDrill) -> list[str]:
    head = f"{printable(drill.point.domain)}: {drill.point.point}: {sentence(drill.proof)}"
    words = [line for line in drill.proof.log.splitlines() if line.strip()]
    is_told = drill.proof.verdict == "failed" and words
    return [head, *([f"  its console ends with: {printable(words[-1])}"] if is_told else [])]


def failure(found: Drills) -> PullerError | None:
    """Return the interruption; else what kept drills from success, as one error."""
    if found.interruption is not None:
        return failures.translate(found.interruption)
    unproven = [drill.point.domain for drill in found.unproven]
    bad = [*unproven, *(domain for domain, _ in found.failed)]
    total = len(found.held) + len(found.failed)
    if not bad:
        return None
    message = f"{len(bad)} of {total} drills failed: {', '.join(printable(name) for name in bad)}"
    if len(bad) < total:
        return PartialFailure(message, advice=DrillFailed.default_advice)
    if unproven:
        return DrillFailed(message)
    first = failures.translate(found.failed[0][1])
    return first if total == 1 else type(first)(f"{message}; {first.message}", advice=first.advice)
