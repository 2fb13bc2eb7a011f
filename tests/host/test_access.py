"""This host and another one by ssh answer alike. The other is this one, behind a program that plays ssh."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from threading import Thread

import pytest

from puller.errors import HostUnreachable
from puller.host.access import LOCAL, HostAccess, LockHeld
from puller.host.ssh import SshTarget
from puller.host.sshhost import SshHost
from puller.units import KIB

_SSH = """\
#!/bin/sh
while test $# != 0; do case $1 in
  -S) control=$2; shift 2;;
  -F) shift 2;;
  -O) order=$2; shift 2;;
  -L) pair=$2; shift 2;;
  -oControlMaster=yes) master=yes; shift;;
  -*) shift;;
  *) break;;
esac; done
shift
test -z "$master" || { echo >"$control"; exec cat; }
test -e "$control" || { echo "Connection closed" >&2; exit 255; }
case $order in
  forward) pair=$(printf %s "$pair" | sed s/%%/%/g); exec ln -s "${pair#*:}" "${pair%%:*}";;
  cancel) exit 0;;
esac
exec sh -c "$*"
"""

ODD = "a b'c\"d$e\\f;*é"


def by_ssh(folder: Path) -> SshHost:
    """Return this host as another one."""
    program = folder / "ssh"
    program.write_text(_SSH)
    program.chmod(0o700)
    return SshHost(SshTarget("root@kvm1", program=str(program)))


@pytest.fixture(params=["this", "ssh"])
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostAccess]:
    """Each kind of host."""
    host = LOCAL if request.param == "this" else by_ssh(tmp_path_factory.mktemp("ssh"))
    yield host
    host.close()


def test_what_a_path_leads_to(host: HostAccess, tmp_path: Path) -> None:
    file, link = tmp_path / ODD, tmp_path / "link"
    file.write_bytes(bytes(1000))
    link.symlink_to(file)
    found = host.status(link)
    assert found is not None
    assert (found.kind, found.size, found.modified) == ("file", 1000, file.stat().st_mtime_ns)
    assert found == host.status(file)
    folder = host.status(tmp_path)
    assert folder is not None
    assert folder.kind == "directory"
    assert folder.identity != found.identity
    assert host.status(file / "below") is None
    assert host.status(tmp_path / "none") is None
    assert host.resolved(link) == file


def test_content_is_read_to_the_limit(host: HostAccess, tmp_path: Path) -> None:
    content = bytes(range(256)) * 400
    (tmp_path / ODD).write_bytes(content)
    assert host.read(tmp_path / ODD, len(content) + 1) == content
    assert host.read(tmp_path / ODD, 7) == content[:7]
    with pytest.raises(FileNotFoundError):
        host.read(tmp_path / "none", 7)


def test_files_are_listed_whatever_their_names(host: HostAccess, tmp_path: Path) -> None:
    below = tmp_path / "x y"
    below.mkdir()
    names = [f"puller-{ODD}.lock", "puller-\n.lock", "other.lock", "puller-1.scratch"]
    for name in names:
        (below / name).touch()
    assert host.matching(below, "puller-*.lock") == tuple(sorted(below / name for name in names[:2]))
    assert host.matching(tmp_path / "none", "*") == ()
    assert host.files_below(tmp_path) == tuple(sorted(below / name for name in names))


def test_files_are_made_and_removed(host: HostAccess, tmp_path: Path) -> None:
    path = tmp_path / ODD
    host.create(path)
    assert (path.stat().st_mode & 0o777, path.stat().st_size) == (0o600, 0)
    with pytest.raises(FileExistsError):
        host.create(path)
    with pytest.raises(FileNotFoundError):
        host.create(tmp_path / "none" / "file")
    host.remove(path)
    with pytest.raises(FileNotFoundError):
        host.remove(path)


def test_room_is_counted_reserved_and_released(host: HostAccess, tmp_path: Path) -> None:
    image, kept = tmp_path / "image", tmp_path / ODD
    image.write_bytes(b"x")
    host.allocate(image, 256 * KIB)
    assert (image.stat().st_size, image.stat().st_blocks >= 512) == (1, True)
    host.keep(image, kept)
    assert (kept.read_bytes(), kept.stat().st_blocks < 512, image.exists()) == (b"x", True, False)
    assert host.free_bytes(tmp_path) > 0
    with pytest.raises(FileNotFoundError):
        host.free_bytes(tmp_path / "none")


@pytest.mark.parametrize("remove", [True, False])
def test_a_lock_is_held_against_all_hosts(host: HostAccess, tmp_path: Path, remove: bool) -> None:
    path = tmp_path / ODD
    other = by_ssh(tmp_path)
    with host.held(path, 0o644, remove=remove):
        assert path.stat().st_mode & 0o777 == 0o644
        if host is LOCAL:
            assert other.holder(path) == f"process {os.getpid()}"
        for each in (LOCAL, other):
            with pytest.raises(LockHeld, match=f"process {os.getpid()}"), each.held(path, 0o600, remove=True):
                pass
    assert path.exists() != remove
    with other.held(path, 0o600, remove=True):
        pass
    other.close()


def test_programs_run_and_are_missed(host: HostAccess, tmp_path: Path) -> None:
    done = host.run(["sh", "-c", 'printf %s "$1"; echo oh >&2; exit 3', "sh", ODD], 10)
    assert (done.stdout.decode(), done.stderr, done.returncode) == (ODD, b"oh\n", 3)
    with pytest.raises(FileNotFoundError):
        host.run(["no-such-program"], 10)
    host.run(["touch", str(tmp_path / "made")], 10, umask=0o077)
    assert (tmp_path / "made").stat().st_mode & 0o777 == 0o600
    assert host.node_name() == socket.gethostname()


def test_passphrases_are_in_no_command_line(host: HostAccess) -> None:
    with host.handing([b"one", None, b"two and more"]) as handed:
        files = re.findall(r"id=(key\d),.*?file=(\S+)", "\n".join(handed.options))
        assert [name for name, _ in files] == ["key0", "key2"]
        decode = "base64 -d" if "format=base64" in handed.options[1] else "cat"
        script = f'for file do {decode} <"$file"; echo; done; cat /proc/$$/cmdline /proc/$$/environ'
        done = host.run(["sh", "-c", script, "sh", *(file for _, file in files)], 10, handed=handed)
    first, second, rest = done.stdout.split(b"\n", 2)
    assert (first, second) == (b"one", b"two and more")
    assert b"two and more" not in rest


def test_a_socket_is_reached(host: HostAccess, tmp_path: Path) -> None:
    path = tmp_path / "a b%%h.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        with host.socket(path) as here, socket.socket(socket.AF_UNIX) as client:
            client.connect(str(here))


def test_the_end_of_connections_to_another_host_is_awaited(tmp_path: Path) -> None:
    path, closed = tmp_path / "a b.sock", []
    far = by_ssh(tmp_path)
    far.greet()
    with closing(far), socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(str(path))
        server.listen()
        client.connect(str(path))
        accepted, _ = server.accept()

        def close() -> None:
            far.node_name()  # which takes a while
            closed.append(True)
            accepted.close()

        closing_ = Thread(target=close)
        closing_.start()
        far.await_disconnection(path)
        assert closed
        closing_.join()
        far.await_disconnection(path)


def test_a_host_that_is_not_reached(tmp_path: Path) -> None:
    program = tmp_path / "ssh"
    program.write_text(
        "#!/bin/sh\necho 'ssh: connect to host kvm1 port 22: No route to host' >&2\nexit 255\n"
    )
    program.chmod(0o700)
    with pytest.raises(HostUnreachable, match=r"cannot reach host kvm1 by ssh: .*No route to host") as caught:
        SshHost(SshTarget("root@kvm1", ("-p2222",), str(program))).greet()
    assert f"'{program} -p2222 root@kvm1 true'" in caught.value.advice
