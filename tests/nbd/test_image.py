"""Image files served by qemu-nbd."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from puller.cancelling import CancelScope
from puller.errors import NbdError, PullerError
from puller.hypervisor.domain.disks.image import image_facts, stored_bitmaps
from puller.hypervisor.space.seal import create
from puller.nbd.export import Export
from puller.nbd.image import ImageServer, Key, copy_bytes, create_qcow2, detach_backing, remove_bitmap
from puller.nbd.writer import Target
from puller.units import CHUNK, MIB
from tests.lab.luks import PASSPHRASE
from tests.lab.luks import make_image as make_luks
from tests.lab.machine import DiskSpec
from tests.nbd.lab import await_end, make_qcow2, run


def test_a_new_image_has_the_size_rounded_up_to_sectors(tmp_path: Path) -> None:
    image = tmp_path / "disk.qcow2"
    create_qcow2(image, 1_000_000)
    facts = json.loads(run("qemu-img", "info", "--output=json", image))
    assert (facts["format"], facts["virtual-size"]) == ("qcow2", 1_000_448)


def test_a_tool_that_does_not_answer_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "qemu-img"
    tool.write_text("#!/bin/sh\nexec sleep 600\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr("puller.nbd.image._TOOL_SECONDS", 0.1)
    for call in (
        lambda: create_qcow2(tmp_path / "x", MIB),
        lambda: detach_backing(tmp_path / "x"),
        lambda: copy_bytes(tmp_path / "x", "qcow2"),
    ):
        with pytest.raises(NbdError, match="no answer within 0 s"):
            call()


@pytest.mark.parametrize("name", ["plain", "with space", "nbd:odd,name=1", "-dash", "ümlaut?&"])
def test_any_file_name_is_served(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    create_qcow2(Path(name), MIB)
    with ImageServer(Path(name), "qcow2") as server, Target(server.uri) as target:
        target.write(0, memoryview(b"x" * CHUNK))
    with ImageServer.read_only(Path(name), "qcow2") as server, Export(server.uri) as export:
        assert export.dirty_bytes() == CHUNK


def test_a_reader_may_not_write(tmp_path: Path) -> None:
    image = make_qcow2(tmp_path / "disk.qcow2", MIB)
    with (
        ImageServer.read_only(image, "qcow2") as server,
        pytest.raises(NbdError, match="is read-only"),
    ):
        Target(server.uri)


def test_close_leaves_neither_process_nor_folder(tmp_path: Path) -> None:
    image = make_qcow2(tmp_path / "disk.qcow2", MIB)
    server = ImageServer(image, "qcow2")
    socket = Path(server.uri.partition("socket=")[2])
    assert socket.is_socket()
    assert socket.parent.stat().st_mode & 0o777 == 0o700
    server.close()
    server.close()
    assert not socket.parent.exists()
    run("qemu-img", "info", image)  # fails while somebody holds the image for writing


@pytest.mark.parametrize("uid", [0, 64055])
def test_a_tmpdir_too_long_for_a_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uid: int) -> None:
    """``uid`` has a runtime folder, or none and has to do with what is short."""
    image = make_qcow2(tmp_path / "disk.qcow2", MIB)
    long = tmp_path / ("long" * 25)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    monkeypatch.setattr("puller.host.runtime.RUNTIME", tmp_path)
    monkeypatch.setattr("os.geteuid", lambda: uid)
    with ImageServer(image, "qcow2") as server, Target(server.uri) as target:
        target.write(0, memoryview(b"x" * CHUNK))
    with ImageServer.read_only(image, "qcow2") as server, Export(server.uri) as export:
        assert export.dirty_bytes() == CHUNK


def test_no_folder_for_a_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = make_qcow2(tmp_path / "disk.qcow2", MIB)
    monkeypatch.setattr("puller.host.runtime.SOCKET_PATH", 10)
    with pytest.raises(PullerError, match="cannot create a socket in any of /run/puller, /tmp") as raised:
        ImageServer(image, "qcow2")
    assert raised.value.advice.startswith("Make one of these directories writable")


def test_close_does_not_wait_for_other_clients(tmp_path: Path) -> None:
    image = make_qcow2(tmp_path / "disk.qcow2", MIB)
    server = ImageServer(image, "qcow2")
    with Export(server.uri) as export:
        server.close()
        with pytest.raises(NbdError):
            export.dirty_bytes()


def test_an_image_that_cannot_be_served_is_told_in_qemus_words(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no qcow2")
    with pytest.raises(NbdError, match=r"cannot serve .*text: .*Image is not in qcow2 format"):
        ImageServer(tmp_path / "text", "qcow2")
    with pytest.raises(NbdError, match="No such file or directory"):
        ImageServer(tmp_path / "nothing", "raw")


def test_an_image_that_is_in_use_is_told(tmp_path: Path) -> None:
    image = make_qcow2(tmp_path / "disk.qcow2", MIB)
    with ImageServer(image, "qcow2"), pytest.raises(NbdError, match="lock"):
        ImageServer(image, "qcow2")


def test_an_image_that_cannot_be_created_is_told(tmp_path: Path) -> None:
    with pytest.raises(NbdError, match=r"cannot create .*disk\.qcow2: .*No such file or directory"):
        create_qcow2(tmp_path / "folder" / "disk.qcow2", MIB)


def test_missing_tools_are_told_with_their_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for attempt in (lambda: create_qcow2(tmp_path / "a", MIB), lambda: ImageServer(tmp_path / "a", "raw")):
        with pytest.raises(NbdError, match="is not installed") as caught:
            attempt()
        assert "qemu-utils" in caught.value.advice


def pid_of(server: ImageServer) -> int:
    socket = Path(server.uri.partition("socket=")[2])
    return int((socket.parent / "pid").read_text())


def test_a_server_that_was_killed_is_an_error(tmp_path: Path) -> None:
    image = make_qcow2(tmp_path / "disk.qcow2", MIB)
    server = ImageServer(image, "qcow2")
    os.kill(pid_of(server), signal.SIGKILL)
    with pytest.raises(NbdError, match="ended with code -9"):
        server.close()


def test_the_first_error_is_the_one_that_leaves(tmp_path: Path) -> None:
    image = make_qcow2(tmp_path / "disk.qcow2", MIB)
    with pytest.raises(KeyboardInterrupt), ImageServer(image, "qcow2") as server:
        os.kill(pid_of(server), signal.SIGKILL)
        raise KeyboardInterrupt


def test_the_server_ends_when_its_owner_is_killed(tmp_path: Path) -> None:
    image = make_qcow2(tmp_path / "disk.qcow2", MIB)
    script = (
        "import sys; from pathlib import Path; from puller.nbd.image import ImageServer\n"
        "server = ImageServer(Path(sys.argv[1]), 'qcow2'); print(server.uri, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(image)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    ) as owner:
        assert owner.stdout
        socket = Path(owner.stdout.readline().strip().partition("socket=")[2])
        pid = int((socket.parent / "pid").read_text())
        owner.kill()
    await_end(pid)
    with ImageServer(image, "qcow2"):
        pass


def test_a_server_that_does_not_end_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one whose storage hangs."""
    monkeypatch.setattr("puller.nbd.qemu_nbd._CLOSE_SECONDS", 0.1)
    server = ImageServer(make_qcow2(tmp_path / "disk.qcow2", MIB), "qcow2")
    socket = Path(server.uri.partition("socket=")[2])
    os.kill(int((socket.parent / "pid").read_text()), signal.SIGSTOP)
    with pytest.raises(NbdError, match="did not end within 0 s"):
        server.close()
    assert not socket.parent.exists()


def test_an_encrypted_image_upon_an_encrypted_one_is_served_in_plain(tmp_path: Path) -> None:
    """Each with a passphrase of its own; neither is in the command of the server, nor in a message."""
    below, above = tmp_path / "below", tmp_path / "above"
    make_luks(below, DiskSpec("vda", MIB, "raw"))
    keys = [Key("raw", PASSPHRASE)]
    opened = ImageServer(below, "raw", keys=keys)
    with opened as server, Target(server.uri) as target:
        target.write(0, memoryview(b"b" * MIB))
    option = "encrypt.format=luks,encrypt.key-secret=key0,encrypt.iter-time=10"
    create(
        CancelScope(),
        b"another one",
        "-u",
        "-b",
        str(below),
        "-F",
        "raw",
        "-o",
        option,
        "--",
        str(above),
        str(MIB),
    )
    keys = [Key("qcow2", b"another one"), Key("raw", PASSPHRASE)]
    opened = ImageServer(above, "qcow2", keys=keys)
    with opened as server, Target(server.uri) as target:
        target.write(0, memoryview(b"a" * CHUNK))
        (command,) = [
            words
            for path in Path("/proc").glob("[0-9]*/cmdline")
            if str(above).encode() in (words := _read(path))
        ]
    assert PASSPHRASE not in command
    with ImageServer.read_only(above, "qcow2", keys=keys) as server, Export(server.uri) as export:
        assert (export.chunk(0)[:1], export.chunk(15)[:1]) == (b"a", b"b")
    assert copy_bytes(above, "qcow2", keys) > MIB
    assert "another" not in repr(keys)
    with pytest.raises(NbdError, match="Invalid password") as raised:
        ImageServer.read_only(above, "qcow2", keys=[Key("qcow2", b"sesame"), keys[1]])
    assert "sesame" not in str(raised.value)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # the process has ended
        return b""


def test_a_bitmap_is_removed_from_an_encrypted_image_whose_backing_file_is_away(tmp_path: Path) -> None:
    image, keys = tmp_path / "image", [Key("qcow2", PASSPHRASE)]
    option = "encrypt.format=luks,encrypt.key-secret=key0,encrypt.iter-time=10"
    away = str(tmp_path / "away")
    create(CancelScope(), PASSPHRASE, "-u", "-b", away, "-F", "raw", "-o", option, "--", str(image), str(MIB))
    secret = f"secret,id=key0,data={PASSPHRASE.decode().replace(',', ',,')}"
    parts = {"driver": "qcow2", "file": {"filename": str(image)}, "backing": None}
    node = f"json:{json.dumps({**parts, 'encrypt': {'key-secret': 'key0'}})}"
    for name in ("ours", "theirs"):
        run("qemu-img", "bitmap", "--add", "--object", secret, node, name)
    remove_bitmap(image, "ours", keys)
    assert list(stored_bitmaps(image_facts(image, "qcow2"))) == ["theirs"]
    with pytest.raises(NbdError, match=f"cannot remove bitmap ours from {image}: .*not found"):
        remove_bitmap(image, "ours", keys)
    with pytest.raises(NbdError, match=f"cannot remove bitmap theirs from {image}: "):
        remove_bitmap(image, "theirs")
