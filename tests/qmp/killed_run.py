"""A run over a QEMU without libvirt that dies by SIGKILL.

``python -m tests.qmp.killed_run URI DOMAIN REPOSITORY WHEN [SCRATCH]``: WHEN is a QMP command, just after
which it dies (``COMMAND:2`` for the second time), or ``frozen`` or ``committed``.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from typing import Any

import puller
from puller.events import Committed, Event
from puller.qmp.monitor import Monitor


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_commit(event: Event) -> None:
    if isinstance(event, Committed):
        die()


def die_after(fatal: str, times: int) -> None:
    """Die once the command was carried out so many times by this process."""
    real, left = Monitor.ask, [times]

    def ask(
        self: Monitor, command: str, arguments: Mapping[str, object] | None = None, doing: str = ""
    ) -> Any:
        answer = real(self, command, arguments, doing)
        left[0] -= command == fatal
        if not left[0]:
            die()
        return answer

    Monitor.ask = ask  # type: ignore[method-assign]


def main() -> None:
    uri, domain, url, when, *scratch = sys.argv[1:]
    repository = puller.open_repository(url)
    if when == "frozen":
        puller.backup(repository, domain, connect=uri, on_frozen=die, scratch_dir=next(iter(scratch), None))
    elif when == "committed":
        puller.backup(repository, domain, connect=uri, observer=die_at_commit)
    else:
        command, _, times = when.partition(":")
        die_after(command, int(times or 1))
        puller.backup(repository, domain, connect=uri)


if __name__ == "__main__":
    main()
