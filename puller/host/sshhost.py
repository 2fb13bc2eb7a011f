"""Another host, whose files and programs are reached by ssh: with sh, GNU coreutils and util-linux."""

from __future__ import annotations

import base64
import errno
import os
import secrets
import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from subprocess import CompletedProcess

from puller.cancelling import CancelScope
from puller.errors import HostUnreachable
from puller.host.access import FileStatus, HostAccess, LockHeld
from puller.host.passphrases import NOTHING, Handed, secret_id
from puller.host.ssh import SshConnection, SshTarget

_SECONDS = 30.0
"""Seconds for a question about a file."""

_DISCONNECTION_SECONDS = 6.0
"""Seconds to wait for the end of connections; the job is then ended in any case."""

_TOKEN = secrets.token_hex(4)
"""Tells this process from one of another container, whose number and host name may be the same."""

_MISSING = 127
"""Exit code of a shell that does not find the program."""

_BEAT = 5.0
"""Seconds between two signs of life of the holder of a lock; the other side waits for six of them."""

_KINDS = {
    "regular file": "file",
    "regular empty file": "file",
    "directory": "directory",
    "block special file": "block",
}

_STAT = 'stat -L --printf="%F\\n%d %i %t %T\\n%s %.9Y\\n" -- "$1"'
_READ = 'head -c "$2" -- "$1"'
_REMOVE = 'rm -- "$1"'
_FREE = 'stat -f --printf="%a %S" -- "$1"'
_LIST = 'cd -- "$1" 2>/dev/null || exit 0; for f in $2; do test -e "$f" && printf "%s\\0" "$f"; done; exit 0'
_FILES = 'cd -- "$1" && find . -type f -print0'
_HOLD = """\
umask 077
test ! -L "$1" || exit 1
mkdir -p -- "${1%/*}" && exec 9<>"$1" || exit 1
flock -xn 9 || { printf "held "; head -c 100 "$1"; exit 0; }
printf "%s\\n" "$2" >"$1"; chmod "$3" "$1"; echo ok
while test -n "$(timeout 30 dd bs=1 count=1 2>/dev/null)"; do :; done
test -z "$4" || rm -f -- "$1"
"""
_AWAIT_DISCONNECTION = """\
connected() {
  while read -r _ _ _ _ _ state _ path; do test "$state $path" = "03 $1" && return; done </proc/net/unix
  return 1
}
tries=60
while connected "$1" && test $tries != 0; do sleep 0.05; tries=$((tries - 1)); done
"""
"""In this file an accepted connection has the path of its server's socket, and 03 means connected."""
_CREATE = 'umask 077; set -C; : >"$1"'
_ALLOCATE = 'fallocate --keep-size --length "$2" -- "$1"'
_KEEP = 'truncate -s "$(stat -c %s -- "$1")" -- "$1" && mv -T -- "$1" "$2"'
_RESOLVE = 'realpath -mz -- "$1" | tr -d "\\0"'
_HOLDER = 'exec 9<"$1" || exit 0; flock -sn 9 || head -c 100 "$1"'
_RUNTIME = """\
user=$(id -u)
runtime=${XDG_RUNTIME_DIR:-/run/user/$user}
if test "$user" = 0; then echo /run/puller
elif test -d "$runtime"; then echo "$runtime/puller"
else echo "${TMPDIR:-/tmp}/puller-$user"; fi
"""


class SshHost(HostAccess):
    """A host by ssh. Its connection is opened when it is first used."""

    watch_interval = 0.5

    def __init__(self, target: SshTarget) -> None:
        self._ssh = SshConnection(target)
        self.name = self._ssh.destination
        self._identity = f"process {os.getpid()} of host {socket.gethostname()} ({_TOKEN})"

    def close(self) -> None:
        """End the connection."""
        self._ssh.close()

    def greet(self, scope: CancelScope | None = None) -> None:
        """Log in. Raises HostUnreachable."""
        self._ask("true", scope=scope)

    def node_name(self) -> str:
        """See HostAccess."""
        return os.fsdecode(self._ask("uname -n").strip())

    def run(
        self,
        words: Sequence[str],
        seconds: float,
        scope: CancelScope | None = None,
        *,
        handed: Handed = NOTHING,
        umask: int = -1,
    ) -> CompletedProcess[bytes]:
        """See HostAccess. Its messages are in English, as the code that reads them expects."""
        script = "".join(_descriptor(number) for number in range(len(handed.lines)))
        mask = "" if umask < 0 else f"umask {umask:o}; "
        script = f'{script}{mask}export LC_ALL=C; exec "$@"'
        done = self._ssh.run(script, words, seconds, scope, b"".join(handed.lines))
        if done.returncode == _MISSING:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), words[0])
        return done

    def handing(self, passphrases: Sequence[bytes | None]) -> AbstractContextManager[Handed]:
        """See HostAccess: each is a line of the input, which the other shell makes a descriptor of."""
        options: list[str] = []
        lines: list[bytes] = []
        for number, passphrase in enumerate(passphrases):
            if passphrase is not None:
                file = f"/dev/fd/{_FIRST + len(lines)}"
                options += ["--object", f"secret,id={secret_id(number)},format=base64,file={file}"]
                lines.append(base64.b64encode(passphrase) + b"\n")
        return nullcontext(Handed(tuple(options), (), tuple(lines)))

    def status(self, path: Path) -> FileStatus | None:
        """See HostAccess."""
        try:
            kind, numbers, rest = self._ask(_STAT, str(path)).decode().splitlines()
        except (FileNotFoundError, NotADirectoryError):
            return None
        device, inode, major, minor = numbers.split()
        size, modified = rest.split()
        found = _KINDS.get(kind, "other")
        identity = (int(major, 16), int(minor, 16)) if found == "block" else (int(device), int(inode))
        seconds, _, fraction = modified.partition(".")
        return FileStatus(found, identity, int(size), int(seconds) * 10**9 + int(fraction or 0))

    def read(self, path: Path, limit: int) -> bytes:
        """See HostAccess."""
        return self._ask(_READ, str(path), str(limit))

    def matching(self, folder: Path, pattern: str) -> tuple[Path, ...]:
        """See HostAccess."""
        return _paths(folder, self._ask(_LIST, str(folder), pattern))

    def files_below(self, folder: Path) -> tuple[Path, ...]:
        """See HostAccess."""
        return _paths(folder, self._ask(_FILES, str(folder)))

    def remove(self, path: Path) -> None:
        """See HostAccess."""
        self._ask(_REMOVE, str(path))

    def free_bytes(self, folder: Path) -> int:
        """See HostAccess."""
        blocks, size = self._ask(_FREE, str(folder)).split()
        return int(blocks) * int(size)

    def socket(self, path: Path) -> AbstractContextManager[Path]:
        """See HostAccess: ssh forwards it."""
        return self._ssh.forwarded(path)

    def await_disconnection(self, path: Path) -> None:
        """See HostAccess. sshd closes its connection to the server some time after ssh's client has."""
        if self._ssh.is_open:  # else all that ran over it is closed
            with suppress(OSError, HostUnreachable, subprocess.TimeoutExpired):
                self._ssh.run(_AWAIT_DISCONNECTION, [str(path)], _DISCONNECTION_SECONDS, None, b"")

    def create(self, path: Path) -> None:
        """See HostAccess."""
        self._ask(_CREATE, str(path))

    def allocate(self, path: Path, length: int) -> None:
        """See HostAccess."""
        try:
            self._ask(_ALLOCATE, str(path), str(length))
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS):
                raise

    def keep(self, path: Path, name: Path) -> None:
        """See HostAccess."""
        self._ask(_KEEP, str(path), str(name))

    def resolved(self, path: Path) -> Path:
        """See HostAccess."""
        return Path(os.fsdecode(self._ask(_RESOLVE, str(path))))

    def runtime_directory(self) -> Path:
        """See HostAccess: locks are where a puller on that host has them."""
        return Path(os.fsdecode(self._ask(_RUNTIME).strip()))

    @contextmanager
    def held(self, path: Path, mode: int, *, remove: bool) -> Iterator[None]:
        """See HostAccess. The other side releases it when nothing is heard of this process for 30 s."""
        child = self._ssh.start(
            _HOLD, [str(path), self._identity, f"{mode:o}", "yes" if remove else ""], None
        )
        over = threading.Event()
        try:
            self._await_hold(child)
            threading.Thread(target=_beat, args=(child, over), name="lock", daemon=True).start()
            yield
        finally:
            over.set()
            _leave(child)

    def _await_hold(self, child: subprocess.Popen[bytes]) -> None:
        assert child.stdout is not None
        line = child.stdout.readline().decode(errors="replace").strip()
        if line.startswith("held"):
            raise LockHeld(line.removeprefix("held").strip() or "an unknown process")
        if line != "ok":
            _, said = child.communicate()
            if child.returncode == 255:
                raise HostUnreachable(f"cannot reach host {self.name} by ssh: {_last_line(said)}")
            raise _os_error(said)

    def holder(self, path: Path) -> str | None:
        """See HostAccess."""
        found = self._ask(_HOLDER, str(path)).decode(errors="replace").strip()
        return found if found and found != self._identity else None

    def _ask(self, script: str, *arguments: str, scope: CancelScope | None = None) -> bytes:
        try:
            done = self._ssh.run(f"export LC_ALL=C; {script}", arguments, _SECONDS, scope, b"")
        except subprocess.TimeoutExpired as error:
            raise HostUnreachable(f"host {self.name} did not answer within {_SECONDS:.0f} s") from error
        if done.returncode:
            raise _os_error(done.stderr)
        return done.stdout


_FIRST = 3
"""The first descriptor that a program does not have already."""


def _descriptor(number: int) -> str:
    """Return the part of a script that makes the next line of the input a descriptor."""
    return f"IFS= read -r k; exec {_FIRST + number}<<E\n$k\nE\n"


def _paths(folder: Path, listed: bytes) -> tuple[Path, ...]:
    return tuple(sorted(folder / os.fsdecode(name) for name in listed.split(b"\0") if name))


def _last_line(said: bytes) -> str:
    lines = said.decode(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else "the connection was lost"


_ERRORS = {os.strerror(number): number for number in errno.errorcode}
_ERRORS["Directory nonexistent"] = errno.ENOENT  # dash's own words


def _os_error(said: bytes) -> OSError:
    """Return the error of a program of the coreutils, whose message ends with the system's words."""
    text = _last_line(said).rpartition(": ")[2]
    return OSError(_ERRORS.get(text, errno.EIO), text)


def _beat(child: subprocess.Popen[bytes], over: threading.Event) -> None:
    assert child.stdin is not None
    with suppress(OSError, ValueError):
        while not over.is_set():
            child.stdin.write(b"x")
            child.stdin.flush()
            over.wait(_BEAT)


def _leave(child: subprocess.Popen[bytes]) -> None:
    """End the holder of a lock. If the line is broken, the other side ends it later."""
    assert child.stdin is not None
    with suppress(OSError, ValueError):
        child.stdin.close()
    try:
        child.wait(_BEAT)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    for pipe in (child.stdout, child.stderr):
        if pipe is not None:
            pipe.close()
