"""Fleecing: the disks of a running QEMU as they were at one moment, without libvirt. See docs/qmp.md.

One transaction adds the new bitmaps, merges the base's into bitmaps for the exports, and starts jobs that
copy old blocks into the scratch before the guest overwrites them. The scratch nodes, which have the disks as
their backing nodes, are exported.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from puller.errors import (
    CheckpointUnusable,
    HypervisorError,
    JobRunning,
    MonitorRefused,
    NoSuchDisk,
    PullerError,
)
from puller.hypervisor.domain.checkpoint import PREFIX_LENGTH
from puller.hypervisor.job.export import export_uri
from puller.hypervisor.job.frozen import DiskExport, FrozenDisks
from puller.hypervisor.space.scratch import discard, scratch_path
from puller.hypervisor.space.scratchwatch import ScratchWatch
from puller.hypervisor.space.seal import create
from puller.qmp import remains
from puller.qmp.drives import Drive
from puller.qmp.machine import QemuMachine
from puller.qmp.names import changes_name, node_name, socket_name

_CONNECTIONS = 4
"""NBD connections to allow for each disk: one for data and one for the bitmap, and somebody's look."""

_BLOCK = 512
"""Bytes in a unit of ``st_blocks``."""


def socket_path(machine: QemuMachine, checkpoint: str, scratch: Path) -> Path:
    """Return the socket of the NBD server: beside the monitor's, where QEMU could create that one."""
    return socket_folder(machine, scratch) / socket_name(checkpoint, machine.uuid)


def socket_folder(machine: QemuMachine, scratch: Path) -> Path:
    """Return the directory of the NBD server's socket."""
    monitor = machine.monitor.address.path
    return scratch if monitor is None else monitor.parent


class FleecedDisks(FrozenDisks):
    """The disks of ``bases`` at one moment, while the context lasts.

    ``bases`` names by target the checkpoint that a disk is incremental from, or None. ``checkpoint`` is the
    new one, for all of these disks without the ``untracked`` ones.

    Entering raises JobRunning if QEMU's NBD server or a disk is in use, CheckpointUnusable if a base is gone
    or inconsistent, else HypervisorError.
    """

    def __init__(
        self,
        machine: QemuMachine,
        bases: Mapping[str, str | None],
        *,
        checkpoint: str,
        scratch: Path,
        untracked: Collection[str],
    ) -> None:
        self._machine = machine
        self._bases = dict(bases)
        self._prefix = checkpoint[:PREFIX_LENGTH]
        self._checkpoint = checkpoint
        self._folder = scratch.absolute()
        self._socket = socket_path(machine, checkpoint, self._folder)
        self._nodes = {target: node_name(checkpoint, number) for number, target in enumerate(bases)}
        self._files = {
            target: scratch_path(self._folder, checkpoint, machine.uuid, target) for target in bases
        }
        self._untracked = untracked
        self._options: dict[str, Any] = {}
        self._empty = 0

    @property
    def consistency(self) -> str:
        """See FrozenDisks."""
        return "crash"

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """See FrozenDisks: create the scratch files and their nodes. Raises JobRunning, HypervisorError."""
        found = remains.find(self._machine, self._prefix)
        if found.foreign:
            raise self._busy(f"QEMU's NBD server has exports of another program, such as {found.foreign[0]}")
        try:
            for drive in self._drives().values():
                self._add_scratch(drive)
            self._options = self._cbw_options()
            yield
        finally:
            self._end()

    def __enter__(self) -> Self:
        try:
            self._freeze(self._drives())
            self._export()
        except BaseException:
            self._undo()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._end()
        except BaseException:
            # A signal at this moment must not leave the jobs open, because they slow the guest.
            self._end()
            raise

    def confirm(self) -> None:
        """See FrozenDisks: all jobs must have lasted until now."""
        jobs = remains.find(self._machine, self._prefix).jobs
        if not set(self._nodes.values()) <= set(jobs):
            raise self._ended()

    def _ended(self) -> HypervisorError:
        return HypervisorError(
            f"a backup job of domain {self._machine.name} ended too early",
            advice="Find out which program ended it, then run the backup again.",
        )

    def guarded(self, alarm: Callable[[PullerError], None]) -> ScratchWatch:
        """See FrozenDisks: a full scratch would harm the guest."""
        return ScratchWatch(self._folder, alarm)

    def scratch_used(self) -> int:
        """See FrozenDisks. Raises HypervisorError if the nodes are gone."""
        nodes = remains.scratch_nodes(self._machine, self._prefix)
        if len(nodes) < len(self._nodes):
            raise self._ended()
        used = sum(int(node["image"].get("actual-size", 0)) for node in nodes)
        return max(0, used - self._empty)

    def _drives(self) -> dict[str, Drive]:
        """Return the disks as they are now, by target. Raises NoSuchDisk."""
        present = {drive.disk.target: drive for drive in self._machine.drives()}
        for target in self._bases:
            if target not in present:
                raise NoSuchDisk(f"domain {self._machine.name} has no disk {target} any more")
        return {target: present[target] for target in self._bases}

    def _add_scratch(self, drive: Drive) -> None:
        target = drive.disk.target
        path, node = self._files[target], self._nodes[target]
        create(self._machine.scope, None, "--", str(path), str(drive.size))
        self._empty += path.stat().st_blocks * _BLOCK
        self._hand_over(path)
        scratch = {
            "driver": "qcow2",
            "node-name": node,
            "file": {"driver": "file", "filename": str(path)},
            "backing": drive.node,
        }
        doing = f"QEMU of domain {self._machine.name} cannot use the scratch file {path}"
        self._machine.monitor.ask("blockdev-add", scratch, doing)

    def _hand_over(self, path: Path) -> None:
        """Give the file to QEMU's user; only root can."""
        owner = self._machine.user()
        if os.geteuid() == 0 and owner is not None:
            os.chown(path, *owner, follow_symlinks=False)

    def _freeze(self, drives: Mapping[str, Drive]) -> None:
        doing = f"cannot begin a backup of domain {self._machine.name}"
        actions = [action for target, drive in drives.items() for action in self._actions(target, drive)]
        try:
            self._machine.monitor.ask("transaction", {"actions": actions}, doing)
        except MonitorRefused as error:
            raise self._explained(error) from error

    def _actions(self, target: str, drive: Drive) -> Iterator[dict[str, Any]]:
        base = self._bases[target]
        if target not in self._untracked:
            named = {"node": drive.node, "name": self._checkpoint}
            yield _action("block-dirty-bitmap-add", named | {"persistent": True})
        if base is not None:
            changes = changes_name(self._checkpoint)
            yield _action("block-dirty-bitmap-add", {"node": drive.node, "name": changes, "disabled": True})
            yield _action(
                "block-dirty-bitmap-merge", {"node": drive.node, "target": changes, "bitmaps": [base]}
            )
        node = self._nodes[target]
        job = {"device": drive.node, "target": node, "sync": "none", "job-id": node}
        yield _action("blockdev-backup", {**job, **self._options})

    def _cbw_options(self) -> dict[str, Any]:
        """Let a block that cannot be copied break the backup and not the guest, if this QEMU can."""
        known = self._machine.takes("blockdev-backup", "on-cbw-error")
        return {"on-cbw-error": "break-snapshot"} if known else {}

    def _explained(self, error: MonitorRefused) -> HypervisorError:
        lost = [base for base in self._bases.values() if base is not None and f"'{base}'" in error.reason]
        if lost:
            return CheckpointUnusable(error.message)
        if "is busy" in error.reason or "in use by" in error.reason:
            return JobRunning(error.message, advice="Wait until the other block job of the disk has ended.")
        return error

    def _export(self) -> None:
        monitor = self._machine.monitor
        address = {"type": "unix", "data": {"path": str(self._socket)}}
        connections = max(100, _CONNECTIONS * len(self._bases))
        try:
            monitor.ask("nbd-server-start", {"addr": address, "max-connections": connections})
        except MonitorRefused as error:
            if "already running" in error.reason:
                raise self._busy("QEMU's NBD server is in use by another program") from error
            raise
        self.exports = tuple(self._exported(target) for target in self._bases)

    def _exported(self, target: str) -> DiskExport:
        node, base = self._nodes[target], self._bases[target]
        export: dict[str, Any] = {"type": "nbd", "id": node, "node-name": node, "name": target}
        changed = None
        if base is not None:
            export["bitmaps"] = [changes_name(self._checkpoint)]
            changed = f"qemu:dirty-bitmap:{changes_name(self._checkpoint)}"
        doing = f"cannot export disk {target} of domain {self._machine.name}"
        self._machine.monitor.ask("block-export-add", export, doing)
        return DiskExport(target, export_uri(self._socket, target), changed)

    def _busy(self, why: str) -> JobRunning:
        return JobRunning(
            f"cannot begin a backup of domain {self._machine.name}: {why}",
            advice="Wait until that program has ended, or stop the server with QMP's nbd-server-stop.",
        )

    def _undo(self) -> None:
        """Undo a failed start; if this fails too, the next run does. The first error is the one to report."""
        with suppress(HypervisorError):
            self._end()
        with suppress(HypervisorError):
            for drive, name in self._machine.bitmaps(self._checkpoint):
                self._machine.remove_bitmap(drive, name)

    def _end(self) -> None:
        """End the run in QEMU and remove its files, as far as they are there. Raises HypervisorError."""
        try:
            remains.remove(self._machine, self._prefix, [self._socket])
        finally:
            for path in self._files.values():
                discard(path)


def _action(kind: str, data: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": kind, "data": dict(data)}
