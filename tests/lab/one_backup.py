"""One backup as a process of its own, to be killed at any moment.

``python -m tests.lab.one_backup URL DOMAIN CONNECT TRUTH [--full] [--push]`` says each step on stdout as it
begins, and writes to the file TRUTH the SHA-256 of every frozen disk, read by nbdcopy; of none in a push,
since what QEMU pushes is not the whole disk. Signals are heard as by the command line.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import puller
from puller.cli.signals import Stopped, stop_on_signals
from puller.errors import PullerError
from puller.events import Event, Notice, Step
from puller.hypervisor.job.frozen import DiskExport

PASSWORD = "of the lab"


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> int:
    url, domain, connect, truth = sys.argv[1:5]

    mode: puller.Mode = "push" if "--push" in sys.argv else "pull"

    def copy(exports: Sequence[DiskExport]) -> None:
        if mode == "push":
            Path(truth).write_text("{}")
            return
        with tempfile.TemporaryDirectory(dir=Path(truth).parent) as folder:
            disks = {export.target: _copy(export, Path(folder)) for export in exports}
        Path(truth).write_text(json.dumps(disks))

    try:
        repository = puller.open_repository(url, password=PASSWORD)
        full = "--full" in sys.argv
        with stop_on_signals(lambda: None):
            puller.backup(
                repository, domain, connect=connect, full=full, mode=mode, observer=_tell, on_frozen=copy
            )
    except Stopped:
        return 130
    except PullerError as error:
        _say(f"failed: {error.message}")
        return error.exit_code
    return 0


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _tell(event: Event) -> None:
    if isinstance(event, Step):
        _say(f"step {event.name}")
    elif isinstance(event, Notice):
        _say(f"notice {event.text}")


def _copy(export: DiskExport, folder: Path) -> str:
    """The digest of one disk. The reader dies with this process, as it would not outlive a real host's."""
    path = folder / export.target
    reader = ["setpriv", "--pdeathsig", "KILL", "nbdcopy", export.uri, str(path)]
    subprocess.run(reader, check=True)
    return digest(path)


if __name__ == "__main__":
    sys.exit(main())
