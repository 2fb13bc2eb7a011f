"""Domains that are shut off: what their images cannot tell, and what earlier runs left beside them."""

from __future__ import annotations

import os
import random
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import libvirt
import pytest

import puller
from puller.errors import DomainNotRunning, HypervisorError, NbdError
from puller.hypervisor.domain.checkpoint import checkpoint_name
from puller.hypervisor.job.frozen import DiskExport
from puller.hypervisor.space.staging import staging_path
from puller.units import KIB, MIB
from tests.integration.conftest import Scene, Truth, restored
from tests.lab.fixtures import MachineFactory
from tests.lab.machine import DiskSpec


@pytest.fixture
def raw(machine_factory: MachineFactory, libvirt_uri: str, tmp_path: Path, truth: Truth) -> Scene:
    return Scene(machine_factory(DiskSpec("vda", 8 * MIB, "raw")), libvirt_uri, tmp_path, truth)


def test_a_domain_that_ran_while_its_block_device_was_read(raw: Scene) -> None:
    """A file whose time stands still, as that of a device node does that another one is written by."""
    machine, image = raw.machine, raw.machine.image("vda")
    machine.stop()

    def run(_exports: Sequence[DiskExport]) -> None:
        before = image.stat()
        machine.start()
        machine.write("vda", 2, MIB, 64 * KIB)
        machine.stop()
        os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))

    raw.truth = run
    with pytest.raises(DomainNotRunning, match="was started while its images were read"):
        raw.backup()
    assert puller.list_points(raw.repository) == []


def test_a_disk_that_is_a_slice_of_a_file(raw: Scene) -> None:
    """libvirt exports the slice; the file is another disk."""
    raw.machine.stop()

    def cut(root: ET.Element) -> None:
        source = root.find("./devices/disk/source")
        assert source is not None
        slices = ET.SubElement(source, "slices")
        ET.SubElement(slices, "slice", type="storage", offset=str(MIB), size=str(4 * MIB))

    raw.redefine(cut)
    raw.machine.start()
    raw.machine.write("vda", 3, 0, 64 * KIB)
    point = raw.backup()
    assert (point.disks[0].size, point.disks[0].source) == (
        4 * MIB,
        f"{raw.machine.image('vda')} ({4 * MIB} bytes from {MIB})",
    )
    raw.assert_exact(point)
    raw.machine.stop()
    off = raw.backup()
    assert (off.consistency, off.disks[0].size, off.disks[0].new_bytes) == ("offline", 4 * MIB, 0)
    raw.assert_exact(off)
    image = raw.machine.image("vda")

    def write(_exports: Sequence[DiskExport]) -> None:
        with image.open("r+b") as file:
            file.seek(2 * MIB)
            file.write(b"torn")

    raw.truth = write
    with pytest.raises(HypervisorError, match=f"image {image} of domain .* was changed while it was read"):
        raw.backup()


@pytest.mark.parametrize("part", ["a data file", "a backing file", "the data file of a backing file"])
def test_another_file_of_the_image_that_is_written_while_it_is_read(raw: Scene, part: str) -> None:
    image, other = raw.machine.image("vda"), raw.folder / "other"
    raw.machine.stop()
    raw.redefine(_as_qcow2)
    _make_of_two(image, other, part)
    point = raw.backup()
    raw.assert_exact(point)

    def write(_exports: Sequence[DiskExport]) -> None:
        with other.open("r+b") as file:
            file.write(b"torn")

    raw.truth = write
    with pytest.raises(HypervisorError, match=f"image {other} of domain .* was changed while it was read"):
        raw.backup()
    assert [kept.point for kept in puller.list_points(raw.repository)] == [point.point]


def _as_qcow2(root: ET.Element) -> None:
    driver = root.find("./devices/disk/driver")
    assert driver is not None
    driver.set("type", "qcow2")


def _make_of_two(image: Path, other: Path, part: str) -> None:
    """An image at ``image`` that has its data, or a part of it, in the raw file ``other``."""
    image.unlink()
    with_data = ("-o", f"data_file={other},data_file_raw=on")
    if part == "a data file":
        _create(image, *with_data)
    elif part == "a backing file":
        other.write_bytes(bytes(8 * MIB))
        _create(image, "-b", str(other), "-F", "raw")
    else:
        _create(middle := image.with_suffix(".middle"), *with_data)
        _create(image, "-b", str(middle), "-F", "qcow2")
    with other.open("r+b") as file:
        file.write(b"whole")


def _create(image: Path, *words: str) -> None:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *words, str(image), str(8 * MIB)], check=True)


def test_what_a_dead_push_left_in_a_folder_that_is_named(raw: Scene, tmp_path: Path) -> None:
    """It was killed while it read the images: their job is over."""
    machine, folder = raw.machine, tmp_path / "staging"
    folder.mkdir()
    dead = checkpoint_name(raw.repository.id, "20261123T050000Z-00000000")
    for running in (True, False):
        left = staging_path(folder, dead, machine.uuid, "vda")
        left.write_bytes(b"what QEMU pushed")
        if not running:
            machine.stop()
        raw.backup(mode="pull" if running else "push", staging_dir=str(folder))
        assert not left.exists()
        assert f"deleted scratch file {left} of an earlier run" in raw.told


class _Ranges(SimpleHTTPRequestHandler):
    """Serves ``content`` by ranges, as QEMU asks for it."""

    content = b""

    def do_HEAD(self) -> None:
        self._begin(200, len(self.content))

    def do_GET(self) -> None:
        first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
        part = self.content[int(first) : int(last) + 1]
        self._begin(206, len(part))
        self.wfile.write(part)

    def _begin(self, code: int, length: int) -> None:
        self.send_response(code)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as it is inherited
        """Say nothing."""


def test_a_disk_on_a_web_server(raw: Scene) -> None:
    content = random.Random(7).randbytes(3 * MIB) + bytes(MIB) + b"end" * 171 + b"\0" * 511
    content = content[: len(content) // 512 * 512]
    handler = type("Handler", (_Ranges,), {"content": content})
    raw.machine.stop()
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()

        def connect(root: ET.Element) -> None:
            disk = root.find("./devices/disk")
            assert disk is not None
            disk.set("type", "network")
            disk.remove(disk.find("source"))  # type: ignore[arg-type]
            source = ET.SubElement(disk, "source", protocol="http", name="disk.raw")
            ET.SubElement(source, "host", name="127.0.0.1", port=str(server.server_port))

        raw.redefine(connect)
        point = raw.backup()
        assert (point.kind, point.disks[0].source) == ("full", "http:disk.raw")
        assert (restored(raw.repository, point, raw.folder) / "vda.raw").read_bytes() == content
        with pytest.raises(libvirt.libvirtError, match="read-only"):  # no guest can have it to write to
            raw.machine.start()
        server.shutdown()
    with pytest.raises(NbdError, match=r"qemu-nbd cannot serve http:disk\.raw"):
        raw.backup()
