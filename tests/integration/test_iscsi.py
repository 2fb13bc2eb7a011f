"""A disk of an iSCSI server that asks for a password, while its domain runs and while it is shut off."""

from __future__ import annotations

import random
import socket
import subprocess
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from puller.errors import NbdError, UnsupportedDisk
from puller.hypervisor.connection import open_embedded
from puller.units import MIB
from tests.integration.conftest import Scene, Truth, restored
from tests.lab.fixtures import MachineFactory
from tests.lab.machine import DiskSpec

TARGET = "iqn.2026-11.org.example:web"
USER, PASSWORD = "libvirt", "secretsecret"
PATIENCE = 20.0


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def served(volume: Path, *, asks: bool = True) -> Iterator[int]:
    """Serve the volume, and yield the port; ``asks`` says whether the server demands the password."""
    port = free_port()
    control = str(port % 30_000)  # it takes no more than 15 bits

    def administer(*words: str) -> bool:
        command = ["tgtadm", "-C", control, "--lld", "iscsi", *words]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    server = subprocess.Popen(
        ["tgtd", "-f", "-C", control, "--iscsi", f"portal=127.0.0.1:{port}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        end = time.monotonic() + PATIENCE
        while not administer("--op", "new", "--mode", "target", "--tid", "1", "-T", TARGET):
            assert time.monotonic() < end, "tgtd does not answer"
        unit = ("--mode", "logicalunit", "--tid", "1", "--lun", "1", "-b", str(volume))
        assert administer("--op", "new", *unit)
        assert administer("--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL")
        if asks:
            account = ("--mode", "account", "--user", USER)
            assert administer("--op", "new", *account, "--password", PASSWORD)
            assert administer("--op", "bind", *account, "--tid", "1")
        yield port
    finally:
        server.kill()
        server.wait()


def keep_secret(uri: str, usage: str, password: bytes) -> None:
    root = ET.Element("secret", ephemeral="no", private="no")
    ET.SubElement(ET.SubElement(root, "usage", type="iscsi"), "target").text = usage
    connection = open_embedded(uri.replace("qemu:", "secret:", 1))
    connection.secretDefineXML(ET.tostring(root, encoding="unicode")).setValue(password)


def on_server(root: ET.Element, port: int) -> ET.Element:
    """Move the disk to the server. Return its source."""
    disk = root.find("./devices/disk")
    assert disk is not None
    disk.set("type", "network")
    for old in disk.findall("source"):
        disk.remove(old)
    source = ET.SubElement(disk, "source", protocol="iscsi", name=f"{TARGET}/1")
    ET.SubElement(source, "host", name="127.0.0.1", port=str(port))
    return source


def login(source: ET.Element, usage: str) -> None:
    auth = ET.SubElement(source, "auth", username=USER)
    ET.SubElement(auth, "secret", type="iscsi", usage=usage)


@pytest.fixture
def scene(machine_factory: MachineFactory, libvirt_uri: str, tmp_path: Path, truth: Truth) -> Scene:
    """A machine that is shut off, with a small raw disk."""
    machine = machine_factory(DiskSpec("vda", MIB, "raw"))
    machine.stop()
    return Scene(machine, libvirt_uri, tmp_path, truth)


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """A volume of the iSCSI server; half of it is zero."""
    path = tmp_path / "volume"
    path.write_bytes(random.Random(3).randbytes(2 * MIB) + bytes(2 * MIB))
    return path


def test_a_disk_of_a_server_while_its_domain_runs(scene: Scene, volume: Path) -> None:
    """Without a password, as a libvirt inside this process gives QEMU no secret."""
    with served(volume, asks=False) as port:

        def move(root: ET.Element) -> None:
            on_server(root, port)

        scene.redefine(move)
        scene.machine.start()
        kinds = [scene.backup().kind]
        scene.machine.write("vda", 7, MIB, MIB)
        point = scene.backup()
        assert [*kinds, point.kind] == ["full", "rehash"]
        scene.assert_exact(point)
        scene.machine.stop()


def test_a_disk_of_a_server_with_a_password(
    scene: Scene, volume: Path, libvirt_uri: str, tmp_path: Path
) -> None:
    with served(volume) as port:

        def connect(usage: str) -> None:
            scene.redefine(lambda root: login(on_server(root, port), usage))

        keep_secret(libvirt_uri, "right", PASSWORD.encode())
        keep_secret(libvirt_uri, "wrong", b"another-password")
        connect("right")
        point = scene.backup()
        assert (restored(scene.repository, point, tmp_path) / "vda.raw").read_bytes() == volume.read_bytes()
        connect("wrong")
        with pytest.raises(NbdError, match="Authentication failure"):
            scene.backup()
        connect("none")
        with pytest.raises(UnsupportedDisk, match="libvirt does not give the value of its secret none"):
            scene.backup()
