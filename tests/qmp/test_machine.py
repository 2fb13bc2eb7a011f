"""What puller sees of a QEMU without libvirt, what it refuses, and what else works with it."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

import puller
from puller.errors import (
    CheckpointUnusable,
    DomainNotRunning,
    HypervisorError,
    NoSuchDisk,
    NoSuchDomain,
    UnsupportedDisk,
    UsageError,
)
from puller.qmp.address import parse
from puller.units import MIB
from tests.integration.conftest import Truth, restored
from tests.lab.kernel import Kernel
from tests.lab.machine import DiskSpec, make_image
from tests.lab.qemu import BareMachine, free_port
from tests.qmp.conftest import BareFactory

SIZE = 8 * MIB


def test_a_monitor_behind_tcp(
    bare_factory: BareFactory, repository: puller.Repository, truth: Truth, tmp_path: Path
) -> None:
    machine = bare_factory(DiskSpec("vda", SIZE), port=free_port())
    machine.write("vda", 1, 0, MIB)
    puller.backup(repository, machine.name, connect=machine.uri)
    machine.write("vda", 2, MIB, MIB)
    point = puller.backup(repository, machine.name, connect=machine.uri, on_frozen=truth)
    assert point.kind == "incremental"
    assert truth.equals(restored(repository, point, tmp_path), "vda", 1)
    assert machine.remains() == []


@pytest.mark.parametrize("is_tcp", [False, True], ids=["socket", "tcp"])
def test_each_start_of_qemu_is_known(
    bare_factory: BareFactory, repository: puller.Repository, is_tcp: bool
) -> None:
    """A bitmap is probed more thoroughly after one: the image may have been exchanged before."""
    machine = bare_factory(DiskSpec("vda", SIZE), port=free_port() if is_tcp else None)

    def run() -> str:
        (disk,) = puller.backup(repository, machine.name, connect=machine.uri).disks
        return disk.image.qemu

    first = run()
    assert run() == first != ""
    machine.stop()
    machine.start()
    assert run() != first


def test_disks_that_cannot_have_a_bitmap(
    bare_factory: BareFactory, repository: puller.Repository, truth: Truth, tmp_path: Path
) -> None:
    machine = bare_factory(DiskSpec("vda", SIZE), DiskSpec("vdb", SIZE, "raw"))
    for target in ("vda", "vdb"):
        machine.write(target, 1, 0, MIB)
    first = puller.backup(repository, machine.name, connect=machine.uri)
    machine.write("vdb", 2, MIB, MIB)
    point = puller.backup(repository, machine.name, connect=machine.uri, on_frozen=truth)
    assert (first.kind, point.kind) == ("full", "mixed")
    assert {disk.disk: disk.kind for disk in point.disks} == {"vda": "incremental", "vdb": "rehash"}
    assert machine.bitmaps() == {"vda": {point.checkpoint}, "vdb": set()}
    folder = restored(repository, point, tmp_path)
    assert truth.equals(folder, "vda", 1)
    assert truth.equals(folder, "vdb", 1)


def test_disks_have_the_names_that_their_user_chose(
    bare_factory: BareFactory, repository: puller.Repository, tmp_path: Path
) -> None:
    """The id of the drive, else of the device, else the name of the node; media are left out."""
    images = {name: tmp_path / f"{name}.qcow2" for name in ("drive", "node", "medium")}
    for path in images.values():
        make_image(path, DiskSpec("x", MIB))
    machine = bare_factory(
        DiskSpec("dev", MIB),
        options=(
            *("-drive", f"file={images['drive']},if=virtio,format=qcow2,id=drv"),
            *("-blockdev", f"driver=qcow2,node-name=knot,file.driver=file,file.filename={images['node']}"),
            *("-device", "virtio-blk-pci,drive=knot"),
            *("-drive", f"file={images['medium']},media=cdrom,format=qcow2,id=cd,readonly=on"),
        ),
    )
    notes: list[str] = []
    point = puller.backup(
        repository, machine.name, connect=machine.uri, observer=lambda e: notes.append(str(e))
    )
    assert {disk.disk for disk in point.disks} == {"dev", "drv", "knot"}
    with pytest.raises(NoSuchDisk, match="has no disk vda"):
        puller.backup(repository, machine.name, connect=machine.uri, disks=["vda"])
    assert any(f"disk cd (a removable medium, {images['medium']})" in note for note in point.notes)


def test_the_point_keeps_what_qemu_says_of_itself(bare_factory: BareFactory, tmp_path: Path) -> None:
    machine = bare_factory(DiskSpec("vda", MIB), options=("-fw_cfg", "name=opt/secret,string=hidden"))
    for password in ("night", None):
        repository = puller.create_repository(str(tmp_path / str(password)), password=password)
        point = puller.backup(repository, machine.name, connect=machine.uri)
        assert (point.uuid, point.consistency) == (machine.uuid, "crash")
        output = tmp_path / f"out-{password}"
        puller.restore(repository, point.point, output=str(output))
        found = json.loads((output / "qemu.json").read_text())
        assert found["query-name"] == {"name": machine.name}
        assert [disk["disk"] for disk in found["disks"]] == ["vda"]
        assert ("command-line" in found) is (password is not None)
        assert ("hidden" in (output / "qemu.json").read_text()) is (password is not None)
        lacking = any("qemu.json has no command line" in note for note in point.notes)
        assert lacking is (password is None)


def test_the_point_says_how_much_scratch_was_used(
    bare_factory: BareFactory, repository: puller.Repository
) -> None:
    machine = bare_factory(DiskSpec("vda", SIZE))
    machine.write("vda", 1, 0, SIZE)

    def overwrite(exports: object) -> None:
        machine.write("vda", 2, 0, 2 * MIB)

    assert puller.backup(repository, machine.name, connect=machine.uri).scratch_peak == 0
    point = puller.backup(repository, machine.name, connect=machine.uri, on_frozen=overwrite)
    assert point.scratch_peak is not None
    assert 2 * MIB <= point.scratch_peak < 3 * MIB


def refused(machine: Any, repository: puller.Repository, **options: Any) -> None:
    puller.backup(repository, machine.name, connect=machine.uri, **options)


def test_what_needs_libvirt_is_refused_before_anything(
    bare_factory: BareFactory, repository: puller.Repository, tmp_path: Path
) -> None:
    machine = bare_factory(DiskSpec("vda", MIB))
    point = puller.backup(repository, machine.name, connect=machine.uri)
    with pytest.raises(UsageError, match="cannot push the disks"):
        refused(machine, repository, mode="push")
    with pytest.raises(puller.NotQuiesced, match="has no channel for a guest agent"):
        refused(machine, repository, quiesce="on")
    with pytest.raises(UsageError, match="without libvirt can only be backed up"):
        puller.rollback(repository, point.point, connect=machine.uri)
    with pytest.raises(UsageError, match="without libvirt can only be backed up"):
        puller.diff(repository, point.point, "live", connect=machine.uri)
    assert machine.remains() == []
    assert machine.bitmaps() == {"vda": {point.checkpoint}}


def test_a_machine_that_cannot_be_known_again(
    bare_factory: BareFactory, repository: puller.Repository
) -> None:
    machine = bare_factory(DiskSpec("vda", MIB))
    with pytest.raises(NoSuchDomain, match=f"is domain {machine.name}, not other"):
        puller.backup(repository, "other", connect=machine.uri)
    machine.kill()
    with pytest.raises(DomainNotRunning, match="Connection refused"):
        puller.backup(repository, machine.name, connect=machine.uri)
    machine.uuid = "00000000-0000-0000-0000-000000000000"
    machine.start()
    with pytest.raises(HypervisorError, match="has no UUID"):
        puller.backup(repository, machine.name, connect=machine.uri)


@pytest.mark.parametrize(
    ("uri", "what"),
    [
        ("qmp://", "names no socket"),
        ("qmp://host/path", "names no socket"),
        ("qmp+tcp://127.0.0.1", "names no host and port"),
        ("qmp+tcp://127.0.0.1:x", "names no host and port"),
        ("qmp+tcp://backup.example:4444", "on another host"),
        ("qmp:///a?agent=", "only parameter is agent"),
        ("qmp:///a?agnet=/b", "only parameter is agent"),
    ],
)
def test_uris_that_cannot_be_used(repository: puller.Repository, uri: str, what: str) -> None:
    with pytest.raises(UsageError, match=what):
        puller.backup(repository, "web1", connect=uri)


def test_uris() -> None:
    assert parse("qmp:///run/a%20b.qmp?agent=/run/qga").path == Path("/run/a b.qmp")
    assert parse("qmp:///run/a?agent=/run/qga").agent == Path("/run/qga")
    assert (parse("qmp+tcp://[::1]:44").host, parse("qmp+tcp://[::1]:44").port) == ("::1", 44)


def test_an_encrypted_disk_is_refused(
    bare_factory: BareFactory, repository: puller.Repository, tmp_path: Path
) -> None:
    image, secret = tmp_path / "locked", ("--object", "secret,id=s,data=night")
    options = ("-o", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10")
    for _ in range(20):  # QEMU's measurement of the processor fails at times
        done = subprocess.run(
            ["qemu-img", "create", "-q", "-f", "qcow2", *secret, *options, str(image), "1M"], check=False
        )
        if not done.returncode:
            break
    storage = f"file.driver=file,file.filename={image}"
    node = f"driver=qcow2,node-name=n,{storage},encrypt.format=luks,encrypt.key-secret=s"
    words = (
        "-object",
        "secret,id=s,data=night",
        "-blockdev",
        node,
        "-device",
        "virtio-blk-pci,drive=n,id=vdb",
    )
    machine = bare_factory(DiskSpec("vda", MIB), options=words)
    with pytest.raises(UnsupportedDisk, match=r"disk vdb .* is encrypted"):
        puller.backup(repository, machine.name, connect=machine.uri)
    point = puller.backup(repository, machine.name, connect=machine.uri, exclude=["vdb"])
    assert [disk.disk for disk in point.disks] == ["vda"]


def test_another_program_reads_the_frozen_disks(
    bare_factory: BareFactory, repository: puller.Repository, tmp_path: Path
) -> None:
    machine = bare_factory(DiskSpec("vda", SIZE))
    machine.write("vda", 1, 0, MIB)
    point = puller.backup(repository, machine.name, connect=machine.uri)
    machine.write("vda", 2, MIB, MIB)
    copy, changed = tmp_path / "copy", tmp_path / "changed"
    command = (
        f'nbdcopy "$PULLER_URI_vda" {copy} && nbdinfo --map="$PULLER_BITMAP_vda" "$PULLER_URI_vda" >{changed}'
    )
    frozen = puller.freeze(
        machine.name, connect=machine.uri, since=point.point, repository=repository, command=command
    )
    assert frozen.exit_code == 0
    assert copy.read_bytes()[MIB : 2 * MIB] == b"\2" * MIB
    assert f"{MIB}" in changed.read_text()
    assert machine.remains() == []
    assert machine.bitmaps() == {"vda": {point.checkpoint}}
    with pytest.raises(CheckpointUnusable):
        machine.monitor("block-dirty-bitmap-remove", node="n-vda", name=point.checkpoint)
        puller.freeze(
            machine.name, connect=machine.uri, since=point.point, repository=repository, command="true"
        )
    assert machine.remains() == []


def test_a_restore_over_a_disk_in_use_is_refused(
    bare_factory: BareFactory, repository: puller.Repository
) -> None:
    machine = bare_factory(DiskSpec("vda", MIB))
    point = puller.backup(repository, machine.name, connect=machine.uri)
    with pytest.raises(puller.OutputInUse, match=f"domain {machine.name} is running with"):
        puller.restore(
            repository,
            point.point,
            output=str(machine.image("vda")),
            disks=["vda"],
            force=True,
            connect=machine.uri,
        )


def test_forget_removes_our_bitmaps_and_no_others(
    bare_factory: BareFactory, repository: puller.Repository
) -> None:
    machine = bare_factory(DiskSpec("vda", MIB), DiskSpec("vdb", MIB))
    point = puller.backup(repository, machine.name, connect=machine.uri)
    machine.monitor("block-dirty-bitmap-add", node="n-vda", name="theirs", persistent=True)
    forgotten = puller.forget(repository, machine.name, connect=machine.uri)
    assert forgotten.checkpoints == (point.checkpoint,)
    assert [bitmap.disk for bitmap in forgotten.bitmaps] == ["vda", "vdb"]
    assert machine.bitmaps() == {"vda": {"theirs"}, "vdb": set()}
    assert puller.backup(repository, machine.name, connect=machine.uri).kind == "rehash"


def findings(machine: BareMachine, repository: puller.Repository, **options: Any) -> dict[str, str]:
    found = puller.doctor(repository, connect=machine.uri, **options)
    return {finding.name: finding.status.value for finding in found if finding.name in QUESTIONS}


QUESTIONS = ["connection", "domain", "qemu", "guest-agent", "open-job", "last-point"]
QUESTIONS += ["disks", "disk-format", "disk-base", "scratch-space"]


def test_doctor(bare_factory: BareFactory, repository: puller.Repository) -> None:
    machine = bare_factory(DiskSpec("vda", MIB))
    found = findings(machine, repository)
    assert found == {**dict.fromkeys(QUESTIONS, "ok"), "last-point": "warn"}
    puller.backup(repository, machine.name, connect=machine.uri)
    assert findings(machine, repository) == dict.fromkeys(QUESTIONS, "ok")
    machine.monitor("nbd-server-start", addr={"type": "unix", "data": {"path": str(machine.folder / "s")}})
    machine.monitor("block-export-add", type="nbd", id="theirs", node_name="n-vda")
    assert findings(machine, repository)["open-job"] == "fail"
    assert findings(machine, repository, domains=["other"])["domain"] == "fail"
    assert findings(machine, repository, disks=["vdz"])["disks"] == "fail"
    machine.kill()
    assert findings(machine, repository) == {"connection": "fail"}


def test_a_monitor_that_another_program_keeps_open(
    bare_factory: BareFactory, repository: puller.Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("puller.qmp.monitor.GREETING", 0.5)
    machine = bare_factory(DiskSpec("vda", MIB))
    with ExitStack() as theirs:
        for number in range(3):  # more than one fill QEMU's queue
            client = theirs.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            with suppress(BlockingIOError):
                client.connect(str(machine.socket))
            if number in (0, 2):
                with pytest.raises(HypervisorError, match="no greeting within"):
                    puller.backup(repository, machine.name, connect=machine.uri)
    puller.backup(repository, machine.name, connect=machine.uri)


def test_a_socket_that_is_no_monitor(
    tmp_path: Path, repository: puller.Repository, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "other"))
        server.listen()

        def answer() -> None:
            with server.accept()[0] as client:
                client.sendall(b"SSH-2.0\n")

        Thread(target=answer, daemon=True).start()
        with pytest.raises(HypervisorError, match="cannot connect to QEMU at .*other"):  # noqa: RUF043
            puller.backup(repository, "web1", connect=f"qmp://{tmp_path}/other")
    assert capfd.readouterr().err == ""


def test_firmware_variables_are_a_disk_and_kernels_are_noted(
    bare_factory: BareFactory, repository: puller.Repository, truth: Truth, tmp_path: Path
) -> None:
    code, variables, kernel = (tmp_path / name for name in ("code.fd", "vars.fd", "vmlinuz"))
    code.write_bytes(b"\xf4" * (MIB // 2))
    variables.write_bytes(b"variables".ljust(128 * 1024, b"\xff"))
    shutil.copy(Kernel.find().image, kernel)
    machine = bare_factory(
        DiskSpec("vda", MIB),
        options=(
            *("-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={code}"),
            *("-drive", f"if=pflash,unit=1,format=raw,file={variables}"),
            *("-kernel", str(kernel)),
        ),
    )
    point = puller.backup(repository, machine.name, connect=machine.uri, on_frozen=truth)
    assert {disk.disk for disk in point.disks} == {"vda", "pflash1"}
    folder = restored(repository, point, tmp_path)
    assert truth.equals(folder, "pflash1", 1)
    assert (folder / "pflash1.raw").read_bytes().startswith(b"variables")
    (note,) = [note for note in point.notes if note.startswith("the point does not hold")]
    assert f"kernel {kernel}" in note
    assert f"disk pflash0 (read-only, {code})" in note
    assert machine.remains() == []
