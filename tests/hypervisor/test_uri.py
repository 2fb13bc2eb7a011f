from __future__ import annotations

import re
from pathlib import Path

import pytest

from puller.backups.machines.connecting import connect
from puller.cancelling import CancelScope
from puller.errors import HostUnreachable, UsageError
from puller.host.ssh import SshTarget
from puller.hypervisor.reach import access_to
from puller.hypervisor.uri import is_local, ssh_target, state_directory


@pytest.mark.parametrize(
    ("uri", "local"),
    [
        ("qemu:///system", True),
        ("qemu:///embed?root=/a", True),
        ("qemu+unix:///system?socket=/run/x", True),
        ("qemu+ssh://root@localhost/system", True),
        ("qemu+ssh://root@localhost:2222/system", False),
        ("qemu+libssh2://127.0.0.1:22/system", False),
        ("qemu+tls://localhost/system", True),
        ("qemu+ssh://root@backup.example/system", False),
        ("qemu+tls://10.1.2.3:16514/system", False),
    ],
)
def test_which_uris_are_of_this_host(uri: str, local: bool) -> None:
    assert is_local(uri) == local


def test_where_the_driver_keeps_its_state(monkeypatch: pytest.MonkeyPatch) -> None:
    assert state_directory("qemu:///system") == Path("/var/lib/libvirt/qemu")
    assert state_directory("qemu:///embed?root=/a/b%20c") == Path("/a/b c/lib/qemu")
    monkeypatch.setenv("XDG_CONFIG_HOME", "/home/u/.config")
    assert state_directory("qemu:///session") == Path("/home/u/.config/libvirt/qemu/lib")


@pytest.mark.parametrize(
    ("uri", "target"),
    [
        ("qemu+ssh://kvm1/system", SshTarget("kvm1")),
        ("qemu+ssh://ad%40min@kvm1:2222/system", SshTarget("ad@min@kvm1", ("-p2222",))),
        (
            "qemu+libssh2://root@kvm1/system?keyfile=/etc/key&no_verify=1",
            SshTarget("root@kvm1", ("-i/etc/key", "-oStrictHostKeyChecking=no")),
        ),
        ("qemu+ssh://kvm1/system?command=/opt/ssh", SshTarget("kvm1", (), "/opt/ssh")),
        ("qemu+ssh://root@KVM1:22/system", SshTarget("root@KVM1", ("-p22",))),
        ("qemu+ssh://root@[fd00::1]:22/system", SshTarget("root@fd00::1", ("-p22",))),
        ("qemu+tls://kvm1/system", None),
    ],
)
def test_ssh_is_told_what_the_uri_says(uri: str, target: SshTarget | None) -> None:
    assert ssh_target(uri) == target


@pytest.mark.parametrize(
    "uri",
    [
        "qemu+ssh://kvm1:abc/system",
        "qemu+tls://kvm1:70000/system",
        "qemu+ssh://[::1/system",
        "qemu+ssh://-oProxyCommand=id/system",
        "qemu+ssh://-l@kvm1/system",
        "qmp://[x/qmp.sock",
        "qmp+tcp://[::1/",
    ],
)
def test_a_malformed_uri_is_one_clear_line(uri: str) -> None:
    with pytest.raises(UsageError, match=f"invalid URI '{re.escape(uri)}': "):
        connect(uri)


def test_libvirt_in_clear_text_is_refused() -> None:
    with pytest.raises(UsageError, match="is reached in clear text"):
        access_to("qemu+tcp://kvm1.invalid/system", CancelScope())


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("qemu+shh://root@kvm1.invalid/system", "unknown transport 'shh'"),
        ("qemu+ssh://root@kvm1.invalid", "it has no path"),
        ("qemu+tls://kvm1.invalid/", "it has no path"),
    ],
)
def test_a_uri_with_a_mistake_is_refused_before_the_host_is_asked(uri: str, why: str) -> None:
    with pytest.raises(UsageError) as caught:
        access_to(uri, CancelScope())
    assert caught.value.message == f"invalid URI '{uri}': {why}"


def test_a_port_that_nobody_listens_at_is_told_at_once() -> None:
    with pytest.raises(HostUnreachable, match=r"cannot reach host 127.0.0.2 at port 1: Connection refused"):
        access_to("qemu+tls://127.0.0.2:1/system", CancelScope())
