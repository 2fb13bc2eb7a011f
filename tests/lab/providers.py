"""The S3 servers that puller is tested on, and the kinds of buckets that each has."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from tests.lab.ceph import Ceph
from tests.lab.moto import Moto
from tests.lab.rclone import Rclone
from tests.lab.s3server import S3Server
from tests.lab.seaweed import Seaweed
from tests.lab.swift import Swift

SERVERS: Mapping[str, type[S3Server]] = {
    "seaweed": Seaweed,
    "ceph": Ceph,
    "swift": Swift,
    "rclone": Rclone,
    "moto": Moto,
}

BUCKETS: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "versioned": {"versioned": True},
    "locked": {"lock_days": 1},
}
"""By kind: what is asked of ``S3Server.make_bucket``."""

KINDS: Mapping[str, tuple[str, ...]] = {
    "seaweed": ("plain", "versioned", "locked"),
    "ceph": ("plain", "versioned", "locked"),
    "swift": ("plain", "versioned"),
    "rclone": ("plain",),
    "moto": ("plain", "versioned", "locked"),
}
"""By server: the kinds of buckets that it has."""


def tested() -> list[str]:
    """Return ``server kind`` of all stores that the contract is tested on.

    The servers are those of scripts/test, or those that ``PULLER_TEST_SERVERS`` names instead.
    """
    servers = os.environ.get("PULLER_TEST_SERVERS", "seaweed ceph").split()
    return [f"{server} {kind}" for server in servers for kind in KINDS[server]]
