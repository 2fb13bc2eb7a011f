from __future__ import annotations

from pathlib import Path

import pytest

from puller.hypervisor.uri import is_local, state_directory


@pytest.mark.parametrize(
    ("uri", "local"),
    [
        ("qemu:///system", True),
        ("qemu:///embed?root=/a", True),
        ("qemu+unix:///system?socket=/run/x", True),
        ("qemu+ssh://root@localhost/system", True),
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
