"""Encrypted disks on a libvirtd that is its own process: an embedded one starts no domain that has a secret.

``python -m tests.integration.luks_scenes FOLDER`` prints one JSON document; test_luks.py asserts on it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import libvirt

import puller
from puller.errors import PullerError
from puller.events import Event, Notice
from puller.hypervisor.connection import prepare_library
from puller.hypervisor.domain.checkpoint import checkpoint_name
from puller.hypervisor.job.frozen import DiskExport
from puller.hypervisor.secret import usage
from puller.nbd.image import ImageServer, Key
from puller.units import KIB, MIB
from tests.integration.conftest import leftovers, restored
from tests.lab import luks
from tests.lab.daemon import URI, PrivateLibvirt
from tests.lab.machine import DiskSpec, reference

SIZE = 8 * MIB
TARGETS = {"vda": "raw", "vdb": "qcow2"}


class Stage:
    """A machine with a raw and a qcow2 disk, both LUKS, and what the guest has on each."""

    def __init__(self, folder: Path, connection: Any) -> None:
        self.folder = folder
        self.connection = connection
        self.secret = luks.define_secret(connection)
        self._ordinary = {self.secret}
        root, images = folder / "root", folder / "images"
        for path in (root, images):
            path.mkdir()
        (root / "run").symlink_to("/run/libvirt")
        (root / "log").symlink_to("/var/log/libvirt")
        disks = [DiskSpec(target, SIZE, kind) for target, kind in TARGETS.items()]
        self.machine = luks.machine(connection, "luks", root, images, self.secret, disks)
        self.content = {target: bytearray(SIZE) for target in TARGETS}
        self.repository = puller.create_repository(str(folder / "repository"), password="x")
        self.exposed: list[str] = []

    def write(self, pattern: int, offset: int, length: int) -> None:
        for target, content in self.content.items():
            if pattern:
                self.machine.write(target, pattern, offset, length)
            else:
                self.machine.write_zeroes(target, offset, length)
            content[offset : offset + length] = bytes([pattern]) * length

    def back_up(self, during: Callable[[], None] = lambda: None, **options: Any) -> dict[str, Any]:
        """One run; ``during`` is called while the disks are frozen. What came of it, as JSON."""
        told: list[str] = []
        expected = {target: bytes(content) for target, content in self.content.items()}

        def frozen(_exports: Sequence[DiskExport]) -> None:
            during()
            self.exposed += self._exposed(expected)

        def tell(event: Event) -> None:
            if isinstance(event, Notice):
                told.append(event.text)

        if options.get("mode") == "push":
            self.machine.flush()
        try:
            point = puller.backup(
                self.repository, "luks", connect=URI, observer=tell, on_frozen=frozen, **options
            )
        except PullerError as error:
            return {"error": type(error).__name__, "message": error.message, "advice": error.advice}
        folder = restored(self.repository, point, self.folder)
        return {
            "kinds": {disk.disk: disk.kind for disk in point.disks},
            "encryption": {disk.disk: disk.encryption for disk in point.disks},
            "reasons": [disk.reason for disk in point.disks if disk.kind == "rehash"],
            "wrong": [
                target
                for target, content in expected.items()
                if point.disk(target) is not None and (folder / f"{target}.raw").read_bytes() != content
            ],
            "told": told,
            "left": self.left(),
        }

    def found(self) -> list[str]:
        """What the doctor says of the encryption of the disks."""
        checks = puller.doctor(self.repository, connect=URI)
        return [check.status.value for check in checks if check.name == "disk-encryption"]

    def left(self) -> list[str]:
        """What there is of ours on the host beside the checkpoint of the last point."""
        found = {str(secret.UUIDString()) for secret in self.connection.listAllSecrets()}
        files = [path.name for path in leftovers(self.folder / "images")]
        return files + sorted(found - self._ordinary)

    def _exposed(self, expected: dict[str, bytes]) -> list[str]:
        """Where a passphrase or the content of a disk can be read while the disks are frozen."""
        found = []
        for path in leftovers(self.folder / "images"):
            held = path.read_bytes()
            shown = subprocess.run(
                ["qemu-img", "info", "-U", path], capture_output=True, text=True, check=True
            )
            if "encrypted: yes" not in shown.stdout or path.stat().st_mode & 0o077:
                found.append(f"{path.name} is open")
            for content in expected.values():
                for offset in range(0, SIZE, 64 * KIB):
                    piece = content[offset : offset + 4 * KIB]
                    if any(piece) and piece in held:
                        found.append(f"{path.name} has plain text")
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                known = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
                if luks.PASSPHRASE in known:
                    found.append(f"command of process {process.name}")
        return found


def states(stage: Stage) -> list[dict[str, Any]]:
    """Running and shut off by turns, pulled and pushed, with data, zeroes and overwriting in between."""
    outcomes = []
    stage.write(0, 0, SIZE)  # what was never written of a raw LUKS image is noise
    stage.write(1, MIB, MIB)
    stage.write(3, 4 * MIB, 64 * KIB)
    outcomes.append(stage.back_up(lambda: stage.write(2, MIB + 64 * KIB, 128 * KIB)))
    stage.write(0, 4 * MIB, 64 * KIB)
    stage.machine.stop()
    outcomes.append(stage.back_up())
    stage.machine.start()
    stage.write(4, 6 * MIB, 64 * KIB)
    stage.write(0, MIB, 64 * KIB)
    outcomes.append(stage.back_up(mode="push"))
    stage.write(0, 6 * MIB, 64 * KIB)
    stage.machine.stop()
    outcomes.append(stage.back_up())
    stage.machine.start()
    stage.write(7, 5 * MIB, 64 * KIB)
    outcomes.append(stage.back_up())
    return outcomes


def kept(stage: Stage) -> dict[str, Any]:
    """Pushed images that are to stay open with the passphrases of their disks."""
    outcome = stage.back_up(mode="push", keep_staging=True, full=True, disks=["vdb"])
    right = []
    for path in sorted((stage.folder / "images").glob("luks-*Z-*.qcow2")):
        target = path.stem.rpartition("-")[2]
        with ImageServer.read_only(path, "qcow2", keys=[Key("qcow2", luks.PASSPHRASE)]) as server:
            copy = reference(server.uri, stage.folder / "copy")
        if copy.read_bytes() == bytes(stage.content[target]):
            right.append(target)
        copy.unlink()
        path.unlink()
    return {**outcome, "right": right}


def leftover(stage: Stage) -> dict[str, Any]:
    """A run was killed while it had its secret."""
    name = usage(checkpoint_name(stage.repository.id, "20261123T050000Z-00000000"), stage.machine.uuid)
    root = ET.Element("secret", ephemeral="yes", private="yes")
    ET.SubElement(ET.SubElement(root, "usage", type="volume"), "volume").text = name
    stage.connection.secretDefineXML(ET.tostring(root, encoding="unicode"))
    return {"name": name, "before": len(stage.left()), **stage.back_up(disks=["vdb"])}


def failed_begin(stage: Stage) -> dict[str, Any]:
    """The run fails when the secret and the files are there: the guest has no agent."""
    return {**stage.back_up(quiesce="on"), "left": stage.left()}


def private(stage: Stage) -> dict[str, Any]:
    """libvirt gives the secret to QEMU only."""
    luks.define_secret(stage.connection, "yes", stage.secret)
    outcome: dict[str, Any] = {"push": stage.back_up(mode="push", disks=["vdb"])}
    outcome["kept"] = stage.back_up(mode="push", keep_staging=True, disks=["vdb"])
    outcome["well"] = stage.found()
    stage.machine.stop()
    outcome["ill"] = stage.found()
    outcome["off"] = stage.back_up()
    stage.connection.secretLookupByUUIDString(stage.secret).undefine()
    outcome["gone"] = stage.back_up()
    luks.define_secret(stage.connection, "no", stage.secret)
    outcome["back"] = stage.back_up()
    return outcome


def plain(stage: Stage) -> list[str]:
    """The repository is not encrypted, and the disk is."""
    told: list[str] = []
    repository = puller.create_repository(str(stage.folder / "plain"), password=None)

    def tell(event: Event) -> None:
        if isinstance(event, Notice):
            told.append(event.text)

    point = puller.backup(repository, "luks", connect=URI, observer=tell, disks=["vda"])
    assert list(point.notes) == [text for text in told if "repository" in text], point.notes
    return list(point.notes)


def restored_notices(stage: Stage) -> list[str]:
    told: list[str] = []

    def tell(event: Event) -> None:
        if isinstance(event, Notice):
            told.append(event.text)

    output = str(stage.folder / "told")
    puller.restore(stage.repository, "luks@latest", output=output, observer=tell)
    puller.restore(stage.repository, "luks@latest", output=f"{output}.raw", disks=["vdb"], observer=tell)
    return told


def rolled_back(stage: Stage) -> dict[str, Any]:
    """Both disks are put back, with what is inside the encryption; the next point shows it."""
    stage.back_up()
    wanted = puller.list_points(stage.repository)[-1]
    before = {target: bytearray(content) for target, content in stage.content.items()}
    stage.machine.start()
    stage.write(8, 2 * MIB, 64 * KIB)
    stage.write(0, 5 * MIB, 64 * KIB)
    stage.machine.stop()
    done = puller.rollback(stage.repository, wanted.point, connect=URI)
    stage.content = before
    return {"changed": {disk.disk: disk.changed_bytes for disk in done.disks}, **stage.back_up()}


def unnamed(stage: Stage) -> dict[str, Any]:
    """The domain is defined without the secret of its qcow2 image, which therefore cannot start."""
    root = ET.fromstring(stage.machine.handle.XMLDesc())
    source = root.find("./devices/disk/target[@dev='vdb']/../source")
    assert source is not None
    source.remove(source.findall("./encryption")[0])
    stage.machine.define(ET.tostring(root, encoding="unicode"))
    return stage.back_up()


SCENES = (states, kept, leftover, failed_begin, private, plain, rolled_back, unnamed)


def main() -> int:
    folder = Path(sys.argv[1])
    os.environ["PULLER_CACHE_DIR"] = str(folder / "cache")
    prepare_library()
    with PrivateLibvirt(folder):
        stage = Stage(folder, libvirt.open(URI))
        played: dict[str, Any] = {scene.__name__: scene(stage) for scene in SCENES}
        told = {"exposed": stage.exposed, "restored": restored_notices(stage)}
        json.dump({**played, **told}, sys.stdout, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
