"""The common part of all S3 servers on loopback that tests, soaks and benchmarks use."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

READY_SECONDS = 120
"""How long a server may take to answer. Those of scripts/test take about 2.3 s on an idle machine."""

GRPC = 10000
"""SeaweedFS adds this to a port for its gRPC port."""

# gRPC ports end below 32768, where Linux begins to hand out ports to clients.
_PORTS = range(12000, 22000)

ATTEMPTS = 5
"""Attempts to start: another program may take a port between the check and the start."""


TOOLS = Path(__file__).parents[2] / "build" / "providers" / "bin"
"""Where scripts/soak-providers installs servers that come from PyPI."""


class S3Server(ABC):
    """A server with its data in ``folder``; use it as a context manager, or ``start`` and ``stop`` it."""

    access_key = "lab"
    secret_key = "lab-secret"
    users = ("backup", "prune", "check", "restore", "drill")
    """Access keys, with the same secret, that may do what a bucket's policy allows them and nothing else.
    Some servers have no such users."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    @abstractmethod
    def endpoint(self) -> str:
        """The URL of the S3 server."""

    @property
    @abstractmethod
    def version(self) -> str:
        """The version of the program, such as ``16.2.15``."""

    @abstractmethod
    def start(self) -> None:
        """Start on free ports and return when a put succeeds."""

    @abstractmethod
    def stop(self) -> None:
        """End the server's processes."""

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

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

    def make_bucket(self, name: str, lock_days: int = 0, versioned: bool = False) -> None:
        """Make the bucket; it must not exist. SeaweedFS wants 3 to 63 characters.

        With ``lock_days`` it has Object Lock, whose default retention is that long.
        """
        client = self.client()
        if not lock_days:
            client.create_bucket(Bucket=name)
        else:
            client.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
            retention = {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": lock_days}}
            rule = {"ObjectLockEnabled": "Enabled", "Rule": retention}
            client.put_object_lock_configuration(Bucket=name, ObjectLockConfiguration=rule)  # type: ignore[arg-type]
        if versioned:
            client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})

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
        """Return the complete environment for a process that must use this server and no other."""
        return without_aws() | self.variables()

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Make this server the one that S3 clients of this process find, until the test ends."""
        for name in os.environ.keys() - without_aws().keys():
            monkeypatch.delenv(name)
        for name, value in self.variables().items():
            monkeypatch.setenv(name, value)

    def _spawn(
        self, command: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a process whose output goes to the log."""
        with self._log.open("ab") as log:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
            )

    def _becomes_ready(self, process: subprocess.Popen[bytes]) -> bool:
        """Ask until a put succeeds; False if the process ended."""
        return self._answers(process, lambda: _put_something(self.client()))

    def _answers(self, process: subprocess.Popen[bytes], ask: Callable[[], object]) -> bool:
        deadline = time.monotonic() + READY_SECONDS
        while process.poll() is None:
            with suppress(BotoCoreError, ClientError, OSError):
                ask()
                return True
            if time.monotonic() > deadline:
                raise RuntimeError(f"{type(self).__name__} gives no answer:\n{self._log_tail()}")
            time.sleep(0.02)
        return False

    @property
    def _log(self) -> Path:
        return self._folder / "server.log"

    def _log_tail(self) -> str:
        return self._log.read_text(errors="replace")[-4000:]


class SingleServer(S3Server):
    """A server that is one process with one port. It is killed; what is in memory only is lost."""

    package: str
    """Its name on PyPI, for the reason of a skip."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0

    @property
    @abstractmethod
    def program(self) -> str:
        """The path of its program; empty if it is not installed."""

    @abstractmethod
    def command(self, port: int) -> list[str]:
        """The command that serves at ``port``."""

    @property
    def endpoint(self) -> str:
        """See ``S3Server.endpoint``."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """See ``S3Server.start``."""
        if not self.program:
            pytest.skip(f"{type(self).__name__} ({self.package} of PyPI) is not installed")
        self._folder.mkdir(parents=True, exist_ok=True)
        for _ in range(ATTEMPTS):
            self._port = next(free_ports())
            self._process = self._spawn(self.command(self._port))
            if self._becomes_ready(self._process):
                return
        raise RuntimeError(f"{type(self).__name__} does not start:\n{self._log_tail()}")

    def stop(self) -> None:
        """See ``S3Server.stop``."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def output_of(*command: str) -> str:
    """Return what a command prints, without space around it."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _put_something(client: S3Client) -> None:
    with suppress(client.exceptions.BucketAlreadyExists, client.exceptions.BucketAlreadyOwnedByYou):
        client.create_bucket(Bucket="lab-ready")
    client.put_object(Bucket="lab-ready", Key="ready", Body=b"ready")


def without_aws() -> dict[str, str]:
    # AWS_CA_BUNDLE and proxies of the host would keep clients from a server on loopback.
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("AWS_") and not name.upper().endswith("_PROXY")
    }


def tool(name: str) -> str:
    """Return the path of a server's program; empty if it is not installed."""
    beside = [folder / name for folder in (TOOLS, Path(sys.executable).parent)]
    return next((str(path) for path in beside if path.exists()), None) or shutil.which(name) or ""


def free_ports() -> Iterator[int]:
    """Yield ports that are free together with their gRPC twins."""
    while True:
        port = random.choice(_PORTS)
        if _is_free(port) and _is_free(port + GRPC):
            yield port


def _is_free(port: int) -> bool:
    with closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
