"""The start of libguestfs's appliance, without one."""

from __future__ import annotations

import socket
import subprocess
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from puller.cancelling import CancelScope
from puller.errors import ApplianceFailed
from puller.recovery.files import appliance
from puller.recovery.files.appliance import Appliance, Drive, Refusal
from puller.recovery.files.devices import DeviceNames

DRIVES = [Drive(Path("/run/socket"), "vda")]


class Scripted(Appliance):
    """Fails to launch with the settings in ``failing``; an empty list stands for those by default."""

    def __init__(self, *failing: list[str], settings: tuple[str, ...] = ()) -> None:
        super().__init__(CancelScope())
        self._failing = failing
        self._settings = list(settings)
        self.drives: list[str] = []
        self.launches = 0

    def call(self, method: str, *arguments: Any, limit: float = 0, **named: Any) -> Any:
        match method:
            case "get_backend_settings":
                return self._settings
            case "set_backend_settings":
                (self._settings,) = arguments
            case "add_drive_opts":
                self.drives += arguments
            case "launch":
                self.launches += 1
                attached, self.drives = self.drives, []  # what a failure forgets
                assert attached == ["vda"]
                if self._settings in self._failing:
                    raise Refusal("guestfs_launch failed.\nDo: export LIBGUESTFS_DEBUG=1")
        return None


@pytest.fixture
def kvm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where /dev/kvm would be."""
    path = tmp_path / "kvm"
    path.touch()
    monkeypatch.setattr(appliance, "KVM", path)
    return path


@pytest.mark.usefixtures("kvm")
def test_a_kvm_that_fails_is_done_without() -> None:
    guest = Scripted([])
    assert not guest.launch(DRIVES)
    assert guest.launches == 2


@pytest.mark.usefixtures("kvm")
def test_a_kvm_that_works_is_used() -> None:
    guest = Scripted(["force_tcg"])
    assert guest.launch(DRIVES)
    assert guest.launches == 1


@pytest.mark.usefixtures("kvm")
def test_what_fails_without_kvm_too_is_an_error() -> None:
    guest = Scripted([], ["force_tcg"])
    with pytest.raises(ApplianceFailed) as caught:
        guest.launch(DRIVES)
    assert caught.value.message == "cannot start libguestfs's appliance: guestfs_launch failed"


def test_a_host_without_kvm_is_no_surprise(kvm: Path) -> None:
    kvm.unlink()
    guest = Scripted([])
    assert guest.launch(DRIVES)
    assert guest.launches == 1


def test_a_call_under_way_ends_with_puller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if it were killed: the kernel closes its side of the socket."""
    begun, qemu = tmp_path / "begun", tmp_path / "qemu"
    qemu.write_text(f"#!/bin/sh\ntouch {begun}\nexec sleep 3600\n")
    qemu.chmod(0o700)
    monkeypatch.setenv("LIBGUESTFS_HV", str(qemu))
    monkeypatch.setenv("LIBGUESTFS_CACHEDIR", str(tmp_path))
    ours, theirs = socket.socketpair()
    with theirs:
        number = theirs.fileno()
        process = subprocess.Popen(appliance._command(number), pass_fds=[number], start_new_session=True)
    with Connection(ours.detach()) as connection:
        for method, arguments in (("set_backend", ["direct"]), ("add_drive", ["/dev/null"]), ("launch", [])):
            connection.send((method, arguments, {}))
            if method != "launch":
                assert connection.recv()[0]
        while not begun.exists():
            assert process.poll() is None
    process.wait(60)


@pytest.mark.parametrize(
    ("outside", "inside"),
    [
        ("/dev/vda2", "/dev/sda2"),
        ("/dev/vda", "/dev/sda"),
        ("/dev/sda1", "/dev/sdb1"),
        ("/dev/sdb1", "/dev/sdb1"),
        ("/dev/vg/vda", "/dev/vg/vda"),
        ("/dev/mapper/vda", "/dev/mapper/vda"),
        ("btrfsvol:/dev/vda3/home", "btrfsvol:/dev/sda3/home"),
        ("btrfsvol:/dev/vda/home", "btrfsvol:/dev/sda/home"),
    ],
)
def test_devices_go_by_the_targets_of_their_disks(outside: str, inside: str) -> None:
    names = DeviceNames(["vda", "sda"], ["/dev/sda", "/dev/sdb"])
    assert names.inside(outside) == inside
    if outside != "/dev/sdb1":  # the appliance's own name
        assert names.outside(inside) == outside
