"""Two hosts on one computer: this process is the backup host, and a child is the hypervisor host.

Each has its own network and view of the file system; a pair of virtual Ethernet devices is the line between
them. The module that uses them runs by ``in_own_network``, so that nothing of it lives on.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from tests.lab.certificates import Authority
from tests.lab.daemon import in_own_namespace
from tests.lab.hypervisor_host import ADDRESS

NAME = "kvm1"
"""The name by which the backup host knows the hypervisor host."""

_TLS = f"qemu+tls://{NAME}/system"

SSH = f"qemu+ssh://root@{NAME}/system"

_OWN_ADDRESS = "10.99.0.1"


def in_own_network(module: str, arguments: Sequence[str] = ()) -> list[str]:
    """The command that runs a module of Python as the backup host: needs root."""
    return ["unshare", "--net", *in_own_namespace(module, arguments)]


class HypervisorHost:
    """The other host, a context that ends it. Its files are in ``folder / "kvm1"``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "kvm1"
        self.folder.mkdir()
        self._keys(folder / "ssh")
        self.authority = Authority("Backup CA")
        self.pki = folder / "pki"
        self.authority.issue_server(self.folder / "pki", NAME)
        self.authority.issue_client(self.pki)
        self.tls = f"{_TLS}?pkipath={_for_libvirt(self.pki, folder / 'libvirt-pki')}"

    def __enter__(self) -> Self:
        inner = in_own_namespace("tests.lab.hypervisor_host", [str(self.folder), NAME])
        command = ["unshare", "--net", "--uts", *inner]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=(self.folder / "log").open("wb")
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._wire()
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()
        if self._process.stdout.readline() != b"ready\n":
            raise RuntimeError((self.folder / "log").read_text()[-2000:])
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def run(self, *words: str) -> str:
        """Run a program there, by way of its namespaces: no line is needed. Return what it prints."""
        done = subprocess.run([*self._enter(), *words], check=False, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{words}: {done.stdout}{done.stderr}")
        return done.stdout

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start a program there."""
        return subprocess.Popen([*self._enter(), *words], stdout=subprocess.PIPE, text=True)

    def cut(self) -> None:
        """Cut the line."""
        _ip("link", "set", "backup", "down")

    def mend(self) -> None:
        """Mend the line."""
        _ip("link", "set", "backup", "up")

    def _enter(self) -> list[str]:
        inner = _only_child(_only_child(self._process.pid))
        return ["nsenter", "--target", str(inner), "--net", "--uts", "--mount", "--pid"]

    def _wire(self) -> None:
        _ip("link", "set", "lo", "up")
        _ip("link", "add", "backup", "type", "veth", "peer", "name", NAME)
        _ip("link", "set", NAME, "netns", str(self._process.pid))
        _ip("address", "add", f"{_OWN_ADDRESS}/24", "dev", "backup")
        _ip("link", "set", "backup", "up")

    def _keys(self, folder: Path) -> None:
        """Let root of this host log in there, and let it know the other's name and key."""
        folder.mkdir(mode=0o700)
        for path in (folder / "id_ed25519", self.folder / "host_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
        (self.folder / "authorized_keys").write_bytes((folder / "id_ed25519.pub").read_bytes())
        host_key = (self.folder / "host_key.pub").read_text()
        (folder / "known_hosts").write_text(f"{NAME},{ADDRESS} {host_key}")
        # What a user's configuration may hold, and puller must not mind.
        (folder / "config").write_text("Host kvm1\n LocalForward 7 localhost:7\n ControlMaster auto\n")
        home = Path("/root/.ssh")
        home.mkdir(exist_ok=True)
        subprocess.run(["mount", "--bind", str(folder), str(home)], check=True)
        (folder / "hosts").write_text(f"127.0.0.1 localhost\n{ADDRESS} {NAME}\n")
        subprocess.run(["mount", "--bind", str(folder / "hosts"), "/etc/hosts"], check=True)


def _for_libvirt(pki: Path, folder: Path) -> Path:
    """Copy a client's certificates under the names that libvirt has for them."""
    folder.mkdir()
    for theirs, ours in (("cacert", "ca-cert"), ("clientcert", "client-cert"), ("clientkey", "client-key")):
        (folder / f"{theirs}.pem").write_bytes((pki / f"{ours}.pem").read_bytes())
    return folder


def _only_child(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)
