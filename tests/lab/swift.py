"""OpenStack Swift with its S3 API on loopback: one server of each kind, one replica, and a memcached.

Its files need extended attributes (``user.``), which tmpfs has since Linux 6.6.
"""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
from collections.abc import Mapping
from itertools import islice
from pathlib import Path

import pytest

from tests.lab.s3server import ATTEMPTS, S3Server, free_ports, output_of

KINDS = ("account", "container", "object", "proxy")

_PYTHON = "/usr/bin/python3"
"""Swift is a package of the distribution."""

# Swift's programs read /etc/swift/swift.conf, whatever they are told, when their modules are loaded.
_PROGRAM = """\
import sys
folder, kind = sys.argv[1:]
from swift.common import utils
utils.set_swift_dir(folder)
from swift.common.wsgi import run_wsgi
sys.exit(run_wsgi(f"{folder}/{kind}.conf", f"{kind}-server"))
"""

_ALL = """\
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
user = {user}
swift_dir = {folder}
devices = {folder}/devices
mount_check = false
fallocate_reserve = 0
log_level = WARNING
"""

_STORAGE = """\
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
"""

_PROXY = """\
[pipeline:main]
pipeline = catch_errors gatekeeper listing_formats cache s3api
    tempauth copy slo dlo versioned_writes symlink proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:{cache}
[filter:tempauth]
use = egg:swift#tempauth
user_{key} = {secret} .admin
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
multi_delete_concurrency = 10
[filter:versioned_writes]
use = egg:swift#versioned_writes
allow_versioned_writes = true
allow_object_versioning = true
""" + "".join(
    f"[filter:{name}]\nuse = egg:swift#{name}\n"
    for name in ("catch_errors", "gatekeeper", "listing_formats", "copy", "slo", "dlo", "symlink")
)

_HASHES = """\
[swift-hash]
swift_hash_path_prefix = lab
swift_hash_path_suffix = lab
[storage-policy:0]
name = one
default = yes
"""


class Swift(S3Server):
    """Five processes. An access key of tempauth is ``account:user``."""

    access_key = "lab:lab"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._processes: list[subprocess.Popen[bytes]] = []
        self._ports: Mapping[str, int] = {}

    @property
    def endpoint(self) -> str:
        """See ``S3Server.endpoint``."""
        return f"http://127.0.0.1:{self._ports['proxy']}"

    @property
    def version(self) -> str:
        """See ``S3Server.version``."""
        return output_of(_PYTHON, "-c", "import swift; print(swift.__version__)")

    def start(self) -> None:
        """See ``S3Server.start``."""
        if not all(map(shutil.which, ("swift-ring-builder", "memcached"))):
            pytest.skip("Swift (swift-proxy, -account, -container, -object and memcached) is not installed")
        for _ in range(ATTEMPTS):
            self._prepare()
            if self._starts():
                return
            self.stop()
        raise RuntimeError(f"Swift does not start:\n{self._log_tail()}")

    def stop(self) -> None:
        """Kill all processes; the data stay."""
        for process in self._processes:
            process.kill()
            process.wait()
        self._processes = []

    def _starts(self) -> bool:
        # Names are not looked up, and the module that could takes seconds to load.
        environment = os.environ | {"EVENTLET_NO_GREENDNS": "yes"}
        cache = ["memcached", "-l", "127.0.0.1", "-p", str(self._ports["cache"]), "-u", getpass.getuser()]
        self._processes.append(self._spawn(cache))
        for kind in KINDS:
            self._processes.append(
                self._spawn([_PYTHON, "-c", _PROGRAM, str(self._folder), kind], environment)
            )
        return self._becomes_ready(self._processes[-1])

    def _prepare(self) -> None:
        """Write rings and settings for free ports."""
        shutil.rmtree(self._folder, ignore_errors=True)
        (self._folder / "devices" / "disk").mkdir(parents=True)
        (self._folder / "swift.conf").write_text(_HASHES)
        roles = (*KINDS, "cache")
        self._ports = dict(zip(roles, islice(free_ports(), len(roles)), strict=True))
        for kind in KINDS:
            settings = _ALL + (_PROXY if kind == "proxy" else _STORAGE)
            (self._folder / f"{kind}.conf").write_text(settings.format(kind=kind, **self._values(kind)))
            if kind != "proxy":
                self._make_ring(kind, self._ports[kind])

    def _values(self, kind: str) -> dict[str, object]:
        return {
            "port": self._ports[kind],
            "cache": self._ports["cache"],
            "user": getpass.getuser(),
            "folder": self._folder,
            "key": self.access_key.replace(":", "_"),
            "secret": self.secret_key,
        }

    def _make_ring(self, kind: str, port: int) -> None:
        for words in ("create 4 1 0", f"add r1z1-127.0.0.1:{port}/disk 1", "rebalance"):
            command = ["swift-ring-builder", str(self._folder / f"{kind}.builder"), *words.split()]
            subprocess.run(command, check=True, capture_output=True)
