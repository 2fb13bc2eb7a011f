"""A private libvirtd: the real daemon, with all its state in a folder of its own.

libvirtd of root has fixed folders. So a process that wants one of its own first gets a view of the file
system of its own (``unshare --mount``, see ``in_own_namespace``); there the daemon's folders are mounted
over. Nothing of it is seen outside, and ``qemu:///system`` inside is the private one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import libvirt

from tests.lab import capabilities

URI = "qemu:///system"

_CACHE = Path("/var/cache/libvirt")
_FOLDERS = ("/etc/libvirt", "/var/lib/libvirt", "/var/log/libvirt", str(_CACHE), "/run/libvirt")

_CONFIGURATION = """\
user = "{user}"
group = "{group}"
namespaces = []
cgroup_controllers = []
dynamic_ownership = {owning}
remember_owner = 0
security_driver = "none"
stdio_handler = "file"
"""

_PATIENCE = 60.0
"""Seconds that the daemon may take to answer. It takes 1 to 8, the first time the longest."""


class DaemonError(Exception):
    """The daemon does not come up."""


_ENTER = Path(__file__).parent / "namespace"


def in_own_namespace(module: str, arguments: Sequence[str] = ()) -> list[str]:
    """The command that runs a module of Python where a private daemon can be: needs root."""
    return [str(_ENTER), sys.executable, "-m", module, *arguments]


class PrivateLibvirt:
    """The daemon in this process's mount namespace; a context that ends it, but not the domains.

    ``configuration`` is added to ``qemu.conf``; ``apart`` has QEMU run as a user of its own, as it does where
    nobody has changed that file.
    """

    def __init__(
        self, folder: Path, configuration: str = "", options: Sequence[str] = (), *, apart: bool = False
    ) -> None:
        self._folder = folder
        self._apart = apart
        user, group = ("libvirt-qemu", "kvm") if apart else ("root", "root")
        usual = _CONFIGURATION.format(user=user, group=group, owning=int(apart))
        self._configuration = usual + configuration
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        for path in _FOLDERS:
            self._cover(Path(path))
        if self._apart:
            _hide_kvm(self._folder)
        capabilities.lend(_CACHE)
        Path("/etc/libvirt/qemu.conf").write_text(self._configuration)
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start the daemon and wait until it answers."""
        # The file of the process id is in none of the covered folders, and one daemon only may have it.
        command = ["libvirtd", "--pid-file", str(self._folder / "libvirtd.pid"), *self._options]
        with (self._folder / "libvirtd.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + _PATIENCE
        while not _answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise DaemonError((self._folder / "libvirtd.log").read_text()[-2000:])
            time.sleep(0.05)
        capabilities.keep(_CACHE)

    def revive(self) -> None:
        """Start the daemon unless it was not killed."""
        if self._process is None:
            self.start()

    def kill(self) -> None:
        """End the daemon at once, as a crash does. QEMU lives on."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _cover(self, path: Path) -> None:
        """Put a folder of ours over one of the daemon's, with what the latter holds of configuration."""
        ours = self._folder / path.relative_to("/")
        path.mkdir(parents=True, exist_ok=True)
        if path.parts[1] == "etc":
            shutil.copytree(path, ours, ignore=shutil.ignore_patterns("autostart"))
        else:
            ours.mkdir(parents=True)
        subprocess.run(["mount", "--bind", str(ours), str(path)], check=True)


def _hide_kvm(folder: Path) -> None:
    """Where QEMU's user may not open /dev/kvm but root may, libvirt 9.0 probes QEMU anew for each device: a
    definition then takes 13 s. Machines of the tests do not use it.
    """
    if not Path("/dev/kvm").exists():
        return
    (folder / "kvm").touch()
    subprocess.run(["mount", "--bind", str(folder / "kvm"), "/dev/kvm"], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", "/dev/kvm"], check=True)


def _answers() -> bool:
    if not Path("/run/libvirt/libvirt-sock").exists():
        return False
    try:
        with closing(libvirt.open(URI)) as connection:
            return bool(connection.getVersion())
    except libvirt.libvirtError:
        return False


def is_root() -> bool:
    """Whether this process may have a private daemon."""
    return os.geteuid() == 0


def has_job(domain: Any) -> bool:
    """Whether a backup job is open."""
    try:
        domain.backupGetXMLDesc()
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN_BACKUP:
            return False
        raise
    return True
