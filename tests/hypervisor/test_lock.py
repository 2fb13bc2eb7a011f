from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from puller.errors import Locked, PullerError
from puller.host import runtime
from puller.host.access import LOCAL
from puller.hypervisor.domain.domain import Domain
from puller.hypervisor.locking.lock import DomainLock, holder, lock_directory

UUID = "5f8ed93c-ef2a-4c3c-9a6b-1d3a1a1a1a1a"

HOLDER = """
import sys
from pathlib import Path
from puller.hypervisor.locking.lock import DomainLock
with DomainLock(sys.argv[1], "web", Path(sys.argv[2])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, UUID, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        expected = f"domain web is being backed up by process {holder.pid}"
        with pytest.raises(Locked, match=expected) as caught, DomainLock(UUID, "web", tmp_path):
            pass
        assert caught.value.exit_code == 11
        with DomainLock("another", "db", tmp_path):
            pass
        holder.kill()
        holder.wait()
        with DomainLock(UUID, "web", tmp_path):
            assert (tmp_path / f"{UUID}.lock").read_text() == f"{os.getpid()}\n"


def test_the_same_process_is_refused_too_and_the_lock_can_be_taken_again(tmp_path: Path) -> None:
    for _ in range(2):
        with DomainLock(UUID, "web", tmp_path / "new"), pytest.raises(Locked):
            DomainLock(UUID, "web", tmp_path / "new").__enter__()


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(PullerError, match=f"cannot use the lock file {tmp_path}"),
        DomainLock(UUID, "x", tmp_path / "file"),
    ):
        pass


@pytest.mark.parametrize("fault", ["another user's", "written by others", "another's link", "exchangeable"])
def test_a_folder_that_others_may_change_is_refused(tmp_path: Path, fault: str) -> None:
    """Whoever makes ``/tmp/puller-1000`` before this user does could hold its locks, or take them away."""
    folder = tmp_path / "puller-1000"
    match fault:
        case "another user's":
            folder.mkdir(mode=0o777)
            os.chown(folder, 4321, 4321)
        case "written by others":
            folder.mkdir()
            folder.chmod(0o777)
        case "another's link":
            (tmp_path / "mine").mkdir(mode=0o700)
            folder.symlink_to("mine")
            os.chown(folder, 4321, 4321, follow_symlinks=False)
        case "exchangeable":
            tmp_path.chmod(0o777)
    with pytest.raises(PullerError, match=f"cannot use the lock file {folder}/{UUID}.lock: ") as caught:
        DomainLock(UUID, "web", folder).__enter__()
    assert caught.value.advice.startswith("Let only this user own")
    assert not (folder / f"{UUID}.lock").exists()


def test_a_folder_among_those_of_all_users_is_kept_by_their_sticky_bit(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    with DomainLock(UUID, "web", tmp_path / "puller-0"):
        assert (tmp_path / "puller-0").stat().st_mode & 0o777 == 0o700


def test_where_locks_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(runtime, "RUNTIME", tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert lock_directory() == Path("/run/puller")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    assert lock_directory().name == "puller-1000"
    # Whether or not the environment names it: cron's does not, a login's does.
    (tmp_path / "1000").mkdir()
    assert lock_directory() == tmp_path / "1000" / "puller"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "1000"))
    assert lock_directory() == tmp_path / "1000" / "puller"


def test_the_holder_is_told_without_touching_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("puller.hypervisor.locking.lock.lock_directory", lambda: tmp_path)
    domain = cast(Domain, SimpleNamespace(uuid="uuid", host=LOCAL))
    assert holder(domain) is None
    with DomainLock("uuid", "web1", tmp_path):
        assert holder(domain) == os.getpid()
    assert holder(domain) is None
