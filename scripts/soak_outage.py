"""Stops the S3 server in the midst of backups of a writing guest: for 30 s, and for good.

Run it in a mount namespace of its own, as scripts/soak does.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from soak_kills import Scene, scene_of_a_writing_guest, see_clean, see_guest, see_no_remains

OUTAGE = 30.0
UNAVAILABLE = 14
"""Exit code where the store cannot be reached."""


def main() -> int:
    """Play; the exit status is 0 if nothing was wrong."""
    with scene_of_a_writing_guest() as scene:
        scene.finish_one()
        for full in (True, False):
            _outage(scene, full)
            _for_good(scene, full)
    print("outages: sound", flush=True)
    return 0


def _outage(scene: Scene, full: bool) -> None:
    """The server comes back: the run completes and is exact."""
    generation = scene.guest.console.generation()
    process, truth, said = _stopped_midway(scene, full)
    time.sleep(OUTAGE)
    scene.server.restart()
    said += process.communicate()[0]
    point = scene.learn(truth)
    if process.returncode or point is None or "the store answers again" not in said:
        raise SystemExit(f"an outage of {OUTAGE:.0f} s was not survived:\n{said}")
    see_clean(scene)
    see_guest(scene, generation)
    print(f"{point.kind}: completed after {OUTAGE:.0f} s without the server, exact", flush=True)


def _for_good(scene: Scene, full: bool) -> None:
    """The server stays away: a clean failure, and the next run is incremental."""
    generation = scene.guest.console.generation()
    process, _, said = _stopped_midway(scene, full)
    began = time.monotonic()
    said += process.communicate()[0]
    seconds = time.monotonic() - began
    scene.server.restart()
    see_no_remains(scene)
    if process.returncode != UNAVAILABLE:
        raise SystemExit(f"exit code {process.returncode} where the store is gone:\n{said}")
    point = scene.finish_one()
    see_clean(scene)
    see_guest(scene, generation)
    print(f"gave up {seconds:.0f} s after the server had stopped; next: {point.kind}, exact", flush=True)


def _stopped_midway(scene: Scene, full: bool) -> tuple[subprocess.Popen[str], Path, str]:
    """A run whose server is stopped as it begins to read."""
    process, truth = scene.start(*["--full"] * full)
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if line == "step read\n":
            break
    scene.server.stop()
    return process, truth, said


if __name__ == "__main__":
    sys.exit(main())
