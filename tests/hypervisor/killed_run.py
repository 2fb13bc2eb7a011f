"""A run that is killed while its job is open, and the next one: each a process with the same libvirt root.

``python -m tests.hypervisor.killed_run pull ROOT`` and ``… push ROOT`` end by SIGKILL, ``… recover ROOT``
tells what it found.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from puller.hypervisor.connection import Host
from puller.hypervisor.domain.checkpoint import list_checkpoints
from puller.hypervisor.job import openjob
from puller.hypervisor.job.job import PullJob, socket_path
from puller.hypervisor.job.listener import UnixListener
from puller.hypervisor.job.pushjob import PushJob
from puller.units import GIB, MIB
from tests.hypervisor.conftest import REPOSITORY, checkpoint
from tests.lab.machine import DiskSpec, EmbeddedLibvirt, Machine


def push(root: Path) -> None:
    machine = EmbeddedLibvirt(root).machine("vm", root, [DiskSpec("vda", GIB, "qcow2-falloc")])
    machine.brake("vda")
    domain = Host.connect(f"qemu:///embed?root={root}").domain("vm")
    with PushJob(domain, {"vda": None}, checkpoint(1), root, {}):
        machine.slow_push()
        os.kill(os.getpid(), signal.SIGKILL)


def pull(root: Path) -> None:
    machine = EmbeddedLibvirt(root).machine("vm", root, [DiskSpec("vda", 4 * MIB)])
    domain = Host.connect(f"qemu:///embed?root={root}").domain("vm")
    name = checkpoint(1)
    with PullJob(domain, {"vda": None}, name, root, UnixListener(socket_path(domain, name))):
        machine.write("vda", 1, 0, MIB)
        os.kill(os.getpid(), signal.SIGKILL)


def recover(root: Path) -> None:
    embedded = EmbeddedLibvirt(root)
    domain = Host.connect(embedded.uri).domain("vm")
    try:
        job = openjob.open_job(domain)
        assert job is not None
        found = {
            "ours": openjob.is_ours(job, REPOSITORY),
            "files before": all(path.exists() for path in job.files),
            "ended": openjob.end_stale(domain, REPOSITORY),
            "job after": openjob.open_job(domain),
            "files after": any(path.exists() for path in job.files),
            "checkpoints": [item.name for item in list_checkpoints(domain)],
        }
        json.dump(found, sys.stdout)
    finally:
        Machine(domain.handle, root, root).destroy()


if __name__ == "__main__":
    {"pull": pull, "push": push, "recover": recover}[sys.argv[1]](Path(sys.argv[2]))
