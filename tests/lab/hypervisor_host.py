"""The hypervisor host of two: its own network, sshd, libvirtd and images, as another computer would have.

``python -m tests.lab.hypervisor_host FOLDER`` runs in namespaces of its own (see ``two_hosts``). It prints a
line when sshd and libvirtd answer, and lives until its input ends.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

from tests.lab.daemon import PrivateLibvirt

ADDRESS = "10.99.0.2"
IMAGES = Path("/var/lib/libvirt/images")

_SSHD = """\
ListenAddress {address}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PidFile {folder}/sshd.pid
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin yes
"""


_TLS = """\
backup_tls_x509_cert_dir = "{pki}"
backup_tls_x509_verify = 1
"""

_LIBVIRTD = """\
listen_tls = 1
listen_tcp = 0
listen_addr = "{address}"
auth_unix_rw = "none"
key_file = "{pki}/server-key.pem"
cert_file = "{pki}/server-cert.pem"
ca_file = "{pki}/ca-cert.pem"
"""


def main() -> int:
    """Play the host."""
    folder, name = Path(sys.argv[1]), sys.argv[2]
    (folder / "libvirtd.conf").write_text(_LIBVIRTD.format(address=ADDRESS, pki=folder / "pki"))
    tls = _TLS.format(pki=folder / "pki")
    socket.sethostname(name)
    sys.stdin.readline()  # the network is there
    for command in (("lo", "up"), ("kvm1", "up")):
        subprocess.run(["ip", "link", "set", *command], check=True)
    subprocess.run(["ip", "address", "add", f"{ADDRESS}/24", "dev", "kvm1"], check=True)
    with PrivateLibvirt(folder, tls, ["--listen", "--config", str(folder / "libvirtd.conf")]):
        Path("/run/puller").mkdir(mode=0o700, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0700", "tmpfs", "/run/puller"], check=True)
        IMAGES.mkdir(parents=True, exist_ok=True)
        Path("/run/sshd").mkdir(exist_ok=True)
        _plain_shell(folder / "bashrc")
        (folder / "sshd_config").write_text(_SSHD.format(address=ADDRESS, folder=folder))
        log = (folder / "sshd.log").open("wb")
        sshd = subprocess.Popen(["/usr/sbin/sshd", "-D", "-e", "-f", str(folder / "sshd_config")], stderr=log)
        while not (folder / "sshd.pid").exists():  # it is written once sshd listens
            time.sleep(0.01)
        print("ready", flush=True)  # noqa: T201 - what the other host waits for
        sys.stdin.read()
        sshd.kill()
    return 0


def _plain_shell(empty: Path) -> None:
    """Let root's shell start with nothing: bash(1) reads this file for each command that comes by ssh, and
    what a developer's does there can take longer than all of puller's questions.
    """
    empty.touch()
    theirs = Path("/root/.bashrc")
    if theirs.exists():
        subprocess.run(["mount", "--bind", str(empty), str(theirs)], check=True)


if __name__ == "__main__":
    sys.exit(main())
