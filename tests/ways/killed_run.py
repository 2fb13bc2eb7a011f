"""A run that dies by SIGKILL in mid-transfer.

``python -m tests.ways.killed_run URI DOMAIN REPOSITORY STEP OPTIONS``: it dies once puller has read data, or,
if STEP is ``push``, while QEMU writes its images.
"""

from __future__ import annotations

import json
import os
import signal
import sys

import puller
from puller.events import DiskProgress, Event, Step
from puller.units import MIB


def main() -> None:
    uri, domain, url, step, options = sys.argv[1:]

    def observe(event: Event) -> None:
        pushes = step == "push" and isinstance(event, Step) and event.name == "push"
        if pushes or (isinstance(event, DiskProgress) and (event.moved or 0) >= MIB):
            os.kill(os.getpid(), signal.SIGKILL)

    puller.backup(puller.open_repository(url), domain, connect=uri, observer=observe, **json.loads(options))


if __name__ == "__main__":
    main()
