"""What runs of a repository have set up in a QEMU, found by its names, and its removal.

The end of a run, the end after a failure at any step, and the next run after a kill all use this: none of
them relies on what the dead or failing run knew. Each thing is removed only if it is there.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puller.cancelling import CancelScope, growing_pauses
from puller.errors import HypervisorError, MonitorRefused
from puller.hypervisor.space.scratch import discard
from puller.qmp.drives import Drive, file_of
from puller.qmp.machine import QemuMachine
from puller.qmp.names import is_changes

_STEP = 0.02
"""Most seconds between two looks whether something is gone."""

_LIMIT = 60.0
"""Seconds to wait for the end of an export or a job."""


@dataclass(frozen=True, slots=True)
class Remains:
    """What carries an owner's names: ids of ``exports`` and ``jobs``, ``nodes`` with their files.

    ``foreign`` are NBD exports of other programs. ``changes`` are the bitmaps of runs, each with its disk.
    """

    exports: tuple[str, ...]
    foreign: tuple[str, ...]
    jobs: tuple[str, ...]
    nodes: Mapping[str, Path]
    changes: tuple[tuple[Drive, str], ...]

    @property
    def is_open(self) -> bool:
        """Whether a run has set up something that it would remove at its end."""
        return bool(self.exports or self.jobs or self.nodes or self.changes)


def find(machine: QemuMachine, prefix: str) -> Remains:
    """Return what runs have set up with names that begin with ``prefix``. Raises HypervisorError."""
    exports = {item["id"]: item["type"] for item in machine.monitor.ask("query-block-exports")}
    return Remains(
        exports=tuple(name for name in exports if name.startswith(prefix)),
        foreign=tuple(
            name for name, kind in exports.items() if kind == "nbd" and not name.startswith(prefix)
        ),
        jobs=_jobs(machine, prefix),
        nodes={node["node-name"]: _file(node) for node in scratch_nodes(machine, prefix)},
        changes=tuple((drive, name) for drive, name in machine.bitmaps(prefix) if is_changes(name)),
    )


def scratch_nodes(machine: QemuMachine, prefix: str) -> list[dict[str, Any]]:
    """Return QEMU's description of the scratch nodes whose name begins with ``prefix``."""
    nodes = machine.monitor.ask("query-named-block-nodes", {"flat": True})
    return [node for node in nodes if node.get("node-name", "").startswith(prefix)]


def _file(node: Mapping[str, Any]) -> Path:
    """Return the scratch file of a node: QEMU describes it with the disk behind it, as ``json:{…}``."""
    return file_of(node["file"]) or Path(node["file"])


def remove(machine: QemuMachine, prefix: str, sockets: Iterable[Path]) -> bool:
    """Remove all that runs have set up but the checkpoints' bitmaps; return whether there was something.

    ``prefix`` is that of one owner, see ``owner_prefix``. ``sockets`` are where an NBD server of ours may
    listen. Call it with the domain's lock held, and with all NBD connections closed. Raises HypervisorError
    if something cannot be removed.
    """
    found = find(machine, prefix)
    present = [path for path in sockets if path.exists()]
    _remove_exports(machine, found)
    if (found.exports or any(map(_is_listened_at, present))) and not found.foreign:
        with suppress(MonitorRefused):  # it has just been stopped
            machine.monitor.ask("nbd-server-stop")
    for path in present:
        discard(path)
    _cancel(machine, prefix, found.jobs)
    for node, path in found.nodes.items():
        doing = f"cannot remove the scratch node {node} of domain {machine.name}"
        machine.monitor.ask("blockdev-del", {"node-name": node}, doing)
        discard(path)
    for drive, name in found.changes:
        machine.remove_bitmap(drive, name)
    return found.is_open


def _is_listened_at(path: Path) -> bool:
    """Whether the server is ours: a file of this name may have outlived its QEMU, and the next one serves
    another program.
    """
    with socket.socket(socket.AF_UNIX) as client:
        client.setblocking(False)
        try:
            client.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True  # its queue is full
        return True


def _remove_exports(machine: QemuMachine, found: Remains) -> None:
    for export in found.exports:
        with suppress(MonitorRefused):  # it is being removed already
            machine.monitor.ask("block-export-del", {"id": export, "mode": "hard"})
    prefixes = tuple(found.exports)
    _wait(
        lambda: not set(prefixes) & set(_ids(machine, "query-block-exports")),
        f"the NBD exports of domain {machine.name}",
    )


def _cancel(machine: QemuMachine, prefix: str, jobs: Iterable[str]) -> None:
    for job in jobs:
        with suppress(MonitorRefused):  # it has just ended
            machine.monitor.ask("block-job-cancel", {"device": job, "force": True})
    _wait(lambda: not _jobs(machine, prefix), f"the backup jobs of domain {machine.name}")


def _wait(is_gone: Callable[[], bool], what: str) -> None:
    waiting = CancelScope()  # called at the end of a run, whose scope may be cancelled
    pauses = growing_pauses(_STEP)
    deadline = time.monotonic() + _LIMIT
    while not is_gone():
        if time.monotonic() > deadline:
            raise HypervisorError(
                f"{what} did not end within {_LIMIT:.0f} s",
                advice="Check that the storage of the machine responds, then run the backup again.",
            )
        waiting.pause(next(pauses))


def _ids(machine: QemuMachine, query: str) -> tuple[str, ...]:
    return tuple(item["id"] for item in machine.monitor.ask(query))


def _jobs(machine: QemuMachine, prefix: str) -> tuple[str, ...]:
    return tuple(name for name in _ids(machine, "query-jobs") if name.startswith(prefix))
