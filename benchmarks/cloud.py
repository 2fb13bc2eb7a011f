"""The S3 server: a SeaweedFS of its own on loopback, which counts what is asked of it."""

from __future__ import annotations

import re
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.lab.s3server import free_ports
from tests.lab.seaweed import Seaweed

BUCKET = "benchmark"
_REQUESTS = "SeaweedFS_s3_request_total"
_RECEIVED = "SeaweedFS_s3_bucket_traffic_received_bytes_total"


@dataclass(frozen=True, slots=True)
class Traffic:
    """S3 requests that were answered, and bytes of objects that were received."""

    requests: int
    received: int


class Cloud:
    """A server with one bucket. A context; its data go with ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._port = next(free_ports())
        self._server = Seaweed(folder, f"-metricsPort={self._port}")

    def __enter__(self) -> Self:
        self._server.start()
        self._server.make_bucket(BUCKET)
        return self

    def __exit__(self, *failure: object) -> None:
        self._server.stop()

    @property
    def pid(self) -> int:
        """Of the server's one process."""
        return self._server.pid

    def traffic(self) -> Traffic:
        """Counted since the start."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=30) as answer:
            text = answer.read().decode()
        return Traffic(_sum(text, _REQUESTS), _sum(text, _RECEIVED))

    def environment(self) -> dict[str, str]:
        """An environment that leads puller and rclone (as the remote ``cloud:``) to this server only."""
        rclone = {"TYPE": "s3", "PROVIDER": "Other", "ENV_AUTH": "true", "ENDPOINT": self._server.endpoint}
        remote = {f"RCLONE_CONFIG_CLOUD_{name}": value for name, value in rclone.items()}
        return self._server.environment() | remote | {"RCLONE_CONFIG": "/dev/null"}

    def urls(self, prefix: str) -> list[str]:
        """A signed URL for a GET of each object whose key begins with ``prefix``."""
        pages = self._server.client().get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        keys = [entry["Key"] for page in pages for entry in page.get("Contents", ())]
        return [self.url("get_object", key) for key in keys]

    def url(self, operation: str, key: str) -> str:
        """A signed URL for ``get_object`` or ``put_object``."""
        return self._server.client().generate_presigned_url(operation, Params={"Bucket": BUCKET, "Key": key})


def _sum(text: str, metric: str) -> int:
    """The sum of a counter over all its labels, out of Prometheus' text format."""
    lines = re.findall(rf"^{metric}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
    return int(sum(float(value) for value in lines))
