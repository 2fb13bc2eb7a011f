"""Who QEMU runs as and what confines it, by libvirt's XML; and where such a user gets."""

from __future__ import annotations

import errno
import os
import pwd
from collections.abc import Sequence
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from puller.host.closed import ClosedHost
from puller.hypervisor.confinement import (
    Confinement,
    User,
    barred,
    confinement,
    may_write,
    parse_user,
    qemu_user,
)

HOST = """<capabilities><host>
<secmodel><model>{model}</model><doi>0</doi></secmodel>
<secmodel><model>dac</model><baselabel type='kvm'>+64055:+107</baselabel>
<baselabel type='qemu'>+64055:+108</baselabel></secmodel></host></capabilities>"""


def domain(*labels: str) -> str:
    return f"<domain type='kvm'>{''.join(labels)}</domain>"


DAC = "<seclabel type='dynamic' model='dac' relabel='yes'><label>+1000:+1001</label></seclabel>"
EXEMPT = "<seclabel type='none' model='apparmor'/>"


@pytest.mark.parametrize(
    ("xml", "model", "expected"),
    [
        (domain(), "none", Confinement(User(64055, 107), frozenset())),
        (domain(DAC), "none", Confinement(User(1000, 1001), frozenset())),
        (domain(DAC), "apparmor", Confinement(User(1000, 1001), frozenset({"apparmor"}))),
        (domain(DAC, EXEMPT), "apparmor", Confinement(User(1000, 1001), frozenset())),
        (domain(), "selinux", Confinement(User(64055, 107), frozenset({"selinux"}))),
    ],
)
def test_what_libvirt_tells(xml: str, model: str, expected: Confinement) -> None:
    assert confinement(xml, HOST.format(model=model)) == expected


def test_a_host_that_tells_nothing() -> None:
    assert confinement(domain(), "<capabilities><host/></capabilities>") == Confinement(None, frozenset())


def test_users_by_number_and_by_name() -> None:
    assert parse_user("+64055:+107") == User(64055, 107)
    assert parse_user("root:root") == User(0, 0)
    assert parse_user("no-such-user:root") is None
    assert str(User(0, 0)) == "root"
    assert str(User(4_000_000, 0)) == "user 4000000"


class _Refusing(ClosedHost):
    """A host whose user may not become another: setpriv exits with 127 then."""

    def run(self, words: Sequence[str], *_: Any, **__: Any) -> CompletedProcess[bytes]:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), words[0])


def test_a_user_of_another_host_who_may_not_become_qemus_user() -> None:
    with pytest.raises(PermissionError):
        barred(Path("/var"), User(64055, 107), _Refusing("kvm1", "kvm1"))


def test_this_user_gets_where_it_may(tmp_path: Path) -> None:
    me = User(os.geteuid(), os.getegid())
    assert barred(tmp_path, me) is None
    assert may_write(tmp_path, me)
    assert barred(tmp_path / "missing", me) == tmp_path / "missing"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may ask as another user")
def test_another_user_is_kept_out_by_the_first_closed_folder(tmp_path: Path) -> None:
    nobody = User(pwd.getpwnam("nobody").pw_uid, pwd.getpwnam("nobody").pw_gid)
    for folder in (tmp_path, *tmp_path.parents[:-2]):
        folder.chmod(0o711)
    inner = tmp_path / "closed" / "inner"
    inner.mkdir(parents=True)
    assert barred(inner, nobody) is None
    assert not may_write(inner, nobody)
    inner.chmod(0o777)
    assert may_write(inner, nobody)
    inner.parent.chmod(0o700)
    assert barred(inner, nobody) == inner.parent


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs QEMU as another user")
def test_the_user_of_qemu_is_that_of_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "qemu.conf").write_text('#user = "root"\n user = "nobody"\ngroup = "+107"\n')
    assert qemu_user(tmp_path) == User(pwd.getpwnam("nobody").pw_uid, 107)
    (tmp_path / "qemu.conf").write_text('user = "+64055"\ngroup = "+107"\n')
    assert qemu_user(tmp_path) == User(64055, 107)


def test_in_a_session_qemu_is_this_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert qemu_user(tmp_path) is None
