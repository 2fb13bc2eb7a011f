"""Restore drills, some of them killed at random moments, on a libvirtd that is its own process.

``python -m tests.integration.drill_scenes FOLDER RUNS SEED`` prints a line of JSON for each run, and fails if
a verdict is wrong or if anything is left; test_drills.py plays a few, ``scripts/soak --drills`` many.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import libvirt

import puller
from puller.hypervisor.connection import prepare_library
from tests.lab import bootable
from tests.lab.daemon import URI, PrivateLibvirt

PASSWORD = "of the lab"
PATIENCE = 120.0
HELD, KILLED, STOPPED = "held", "killed", "stopped"
SIGNALS = {KILLED: signal.SIGKILL, STOPPED: signal.SIGTERM}

MACHINES = {
    bootable.sound: ("proven", "240s"),
    bootable.without_boot_loader: ("failed", "30s"),
    bootable.without_kernel: ("failed", "30s"),
    bootable.without_root: ("failed", "240s"),
}
"""What a drill must find out, and how long it waits for it."""

LONGEST = 25.0
"""Seconds after which a drill is killed at the latest."""


class Scene:
    """A repository with a point of each machine, and the directory of the drills."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.chance = random.Random(seed)
        self.drills = folder / "drills"
        self.repository = puller.create_repository(str(folder / "repository"), password=PASSWORD)
        self.kept = 0

    def back_up(self, connection: libvirt.virConnect) -> None:
        disk = self.folder / "sound.raw"
        bootable.make_disk(disk)
        for damage in MACHINES:
            image = self.folder / f"{damage.__name__}.raw"
            image.write_bytes(disk.read_bytes())
            damage(image)
            connection.defineXML(bootable.domain_xml(damage.__name__, image))
            puller.backup(self.repository, damage.__name__, connect=URI)

    def play(self, ending: str) -> dict[str, Any]:
        """Hold a drill, or end it at a random moment."""
        damage = self.chance.choice([bootable.sound, *MACHINES]) if ending == HELD else bootable.sound
        verdict, timeout = MACHINES[damage]
        wanted = f"console:{bootable.READY}" if ending == HELD else "console:never"
        began = time.monotonic()
        process = self._start(damage.__name__, wanted, timeout)
        if ending != HELD:
            self._await_any(process)
            time.sleep(self.chance.uniform(0, LONGEST) * self.chance.random())
            process.send_signal(SIGNALS[ending])
        out, told = process.communicate()
        result = {"ending": ending, "machine": damage.__name__, "code": process.returncode}
        result["seconds"] = round(time.monotonic() - began, 1)
        if ending == HELD:
            self.kept += 1
            assert process.returncode in {0, 1}, (result, told.decode())
            (proof,) = json.loads(out)["proofs"]
            result |= {"verdict": proof["verdict"], "reason": proof["reason"], "started": proof["seconds"]}
            assert proof["verdict"] == verdict, (result, proof["log"][-2000:])
        elif ending == STOPPED:
            assert process.returncode == 130, (result, told.decode())
        self._await_end(ending != KILLED)
        assert len(self.repository.proofs.listed()) == self.kept, result
        return result

    def _start(self, name: str, evidence: str, timeout: str) -> subprocess.Popen[bytes]:
        words = ["prove", name, "--evidence", evidence, "--timeout", timeout, "--json"]
        environment = {
            "PULLER_CONFIG": "/dev/null",
            "PULLER_REPOSITORY": str(self.folder / "repository"),
            "PULLER_PASSWORD": PASSWORD,
            "LIBVIRT_DEFAULT_URI": URI,
        }
        return subprocess.Popen(
            [sys.executable, "-m", "puller.cli", *words, "--directory", str(self.drills)],
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def _await_any(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until the drill has begun to make anything."""
        before = set(self.drills.glob("*"))
        deadline = time.monotonic() + PATIENCE
        while not set(self.drills.glob("*")) - before:
            assert process.poll() is None, process.communicate()[1].decode()
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def _await_end(self, everything: bool) -> None:
        """Wait until nothing runs any more; the directory of a killed drill waits for the next one."""
        deadline = time.monotonic() + PATIENCE
        while left := self.left(everything):
            assert time.monotonic() < deadline, left
            time.sleep(0.1)

    def left(self, everything: bool = True) -> list[str]:
        """What is left of drills: machines, processes, and files of theirs and of libvirt's."""
        with closing(libvirt.open(URI)) as connection:
            found = [handle.name() for handle in connection.listAllDomains() if "drill" in handle.name()]
        for process in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                words = process.read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if words.startswith(("nbdkit", "/usr/bin/qemu-system")):
                    found.append(words[:200])
        patterns = ["lib/libvirt/swtpm/*", "lib/libvirt/qemu/domain-*", "lib/libvirt/qemu/nvram/*"]
        if everything:
            found += [str(path) for path in self.drills.glob("*")]
            patterns.append("log/libvirt/qemu/drill-*")
        found += [str(path) for pattern in patterns for path in Path("/var").glob(pattern)]
        return found


def main() -> None:
    folder, runs, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    folder.mkdir(exist_ok=True)
    scene = Scene(folder, seed)
    few = (KILLED, KILLED, HELD)
    many = [scene.chance.choice((HELD, HELD, KILLED, KILLED, STOPPED)) for _ in range(runs - 1)]
    with PrivateLibvirt(folder / "libvirt"):
        prepare_library()
        with closing(libvirt.open(URI)) as connection:
            scene.back_up(connection)
        # The last one is held to its end, so nothing may be left.
        for ending in few[-runs:] if runs <= len(few) else [*many, HELD]:
            sys.stdout.write(json.dumps(scene.play(ending)) + "\n")
            sys.stdout.flush()
        assert scene.left() == []


if __name__ == "__main__":
    main()
