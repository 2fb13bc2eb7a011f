"""What only a libvirtd that is its own process can show, played in a mount namespace of its own.

``python -m tests.integration.daemon_scenes FOLDER`` prints one JSON document; test_daemon.py asserts on it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import libvirt
import pytest

import puller
from puller.backups import aftermath
from puller.errors import PullerError
from puller.events import Event, Notice, Step
from puller.hypervisor.connection import prepare_library
from puller.hypervisor.job.frozen import DiskExport
from tests.integration.conftest import Truth, leftovers, restored
from tests.lab.daemon import URI, PrivateLibvirt, has_job
from tests.lab.guest import Agent, Guest, running_guest

DOMAIN = "scenes"
PATIENCE = 120.0


class Stage:
    """The guest on its daemon, a repository, and the truth about each point."""

    def __init__(self, folder: Path, daemon: PrivateLibvirt, guest: Guest) -> None:
        self.folder = folder
        self.daemon = daemon
        self.guest = guest
        self.truth = Truth(folder)
        self.runs = 0
        self.repository = puller.create_repository(str(folder / "repository"), password=None)

    def back_up(
        self,
        during: Callable[[], None] = lambda: None,
        mode: puller.Mode = "pull",
        at_end: Callable[[], None] = lambda: None,
        quiesce_timeout: timedelta | None = None,
    ) -> dict[str, Any]:
        """One run; ``during`` is called while the job is open, ``at_end`` just before it is to be ended.

        What came of it, as JSON.
        """
        notices: list[str] = []

        def frozen(exports: Sequence[DiskExport]) -> None:
            self.truth(exports)
            self.runs += 1
            during()

        def tell(event: Event) -> None:
            if isinstance(event, Notice):
                notices.append(event.text)
            if isinstance(event, Step) and event.name == "push":
                during()
            if isinstance(event, Step) and event.name == "end":
                at_end()

        try:
            point = puller.backup(
                self.repository,
                DOMAIN,
                connect=URI,
                mode=mode,
                quiesce_timeout=quiesce_timeout,
                observer=tell,
                on_frozen=frozen,
                disks=["vdb"],
            )
        except PullerError as error:
            self.daemon.revive()
            return {
                "error": type(error).__name__,
                "message": error.message,
                "code": error.exit_code,
                "notices": notices,
                "left": self.left(),
            }
        folder = restored(self.repository, point, self.folder)
        return {
            "kind": point.kind,
            "consistency": point.consistency,
            "exact": self.truth.equals(folder, "vdb", self.runs),
            "notices": notices,
            "left": self.left(),
        }

    def left(self) -> list[str]:
        """What there is of ours on the host beside the one checkpoint of the last point."""
        points = {point.checkpoint for point in puller.list_points(self.repository)}
        with closing(libvirt.open(URI)) as connection:
            domain = connection.lookupByName(DOMAIN)
            names = {checkpoint.getName() for checkpoint in domain.listAllCheckpoints()}
            jobs = ["a job"] if has_job(domain) else []
        files = [*leftovers(self.folder / "guest"), *Path("/var/lib/libvirt/qemu").glob("domain-*/puller-*")]
        return jobs + [str(path) for path in files] + sorted(names - points) + sorted(names)[1:]


def hanging_agent(stage: Stage) -> dict[str, Any]:
    """The agent does not answer in time and freezes afterwards; the guest must not stay frozen."""
    outcome = stage.back_up(quiesce_timeout=timedelta(seconds=2))
    stage.guest.console.wait_generation(stage.guest.console.generation() + 20, PATIENCE)
    return outcome


def killed_daemon(stage: Stage) -> dict[str, Any]:
    """libvirtd is killed and started again while the job is open."""

    def restart() -> None:
        stage.daemon.kill()
        stage.daemon.start()

    return {"during": stage.back_up(restart), "next": stage.back_up()}


def daemon_gone_after_the_commit(stage: Stage) -> dict[str, Any]:
    """libvirtd is killed once the point is stored, and nobody starts it in time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aftermath, "RETURN", 0.0)
        patch.setattr(aftermath, "PERSISTENCE", 0.0)
        outcome = stage.back_up(at_end=stage.daemon.kill)
    return {"during": outcome, "next": stage.back_up()}


def daemon_back_after_the_commit(stage: Stage) -> dict[str, Any]:
    """libvirtd is killed once the point is stored, and is back late: while the end of the job is tried on."""
    asked: list[float] = []

    def expired(deadline: float) -> bool:
        asked.append(deadline)
        if len(asked) > 1:
            stage.daemon.revive()
        return len(asked) == 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aftermath, "_expired", expired)
        outcome = stage.back_up(at_end=stage.daemon.kill)
    return {"during": outcome, "next": stage.back_up()}


def killed_daemon_of_a_push(stage: Stage) -> dict[str, Any]:
    """libvirtd is killed and started again while QEMU pushes: the event of its end never comes."""

    def restart() -> None:
        stage.daemon.kill()
        stage.daemon.start()

    return {"during": stage.back_up(restart, "push"), "next": stage.back_up()}


def powered_off_guest(stage: Stage) -> dict[str, Any]:
    """The guest is powered off while the job is open, and is up again for the next run."""

    def power_off() -> None:
        with closing(libvirt.open(URI)) as connection:
            connection.lookupByName(DOMAIN).destroy()

    outcome = {"during": stage.back_up(power_off)}
    with closing(libvirt.open(URI)) as connection:
        connection.lookupByName(DOMAIN).create()
    return {**outcome, "next": stage.back_up()}


SCENES = (
    hanging_agent,
    killed_daemon,
    killed_daemon_of_a_push,
    daemon_gone_after_the_commit,
    daemon_back_after_the_commit,
    powered_off_guest,
)


def main() -> int:
    folder = Path(sys.argv[1])
    os.environ["PULLER_CACHE_DIR"] = str(folder / "cache")
    prepare_library()
    home = folder / "guest"
    home.mkdir()
    with PrivateLibvirt(folder) as daemon, running_guest(URI, DOMAIN, home, Agent.HANGING) as guest:
        guest.console.wait_generation(1, PATIENCE)
        stage = Stage(folder, daemon, guest)
        json.dump({scene.__name__: scene(stage) for scene in SCENES}, sys.stdout, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
