"""The stores that the contract is tested on."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from uuid import uuid4

import pytest
from botocore.config import Config

from puller.store.base import Store
from puller.store.directory.folder import FolderStore
from puller.store.probe import honours_put_if_absent
from puller.store.s3.client.client import make_client
from puller.store.s3.s3 import S3Store
from puller.store.wrapping.paced import PacedStore
from puller.store.wrapping.retrying import RetryingStore
from puller.store.wrapping.unconditional import UnconditionalStore
from tests.lab.memory import MemoryStore
from tests.lab.providers import BUCKETS, tested
from tests.lab.s3server import S3Server

MakeS3Store = Callable[[], S3Store]


@pytest.fixture(scope="session")
def s3_stores(servers: Callable[[str], S3Server]) -> Callable[[str], MakeS3Store]:
    """Return a function that makes stores of one of ``tested()``, whose server starts when it is first
    needed."""

    @cache
    def stores(name: str) -> MakeS3Store:
        server, kind = name.split()
        return _stores_of(servers(server), kind)

    return stores


def _stores_of(server: S3Server, kind: str) -> MakeS3Store:
    """Return what makes empty stores: prefixes in one bucket, since a client takes 0.4 s to make."""
    with pytest.MonkeyPatch.context() as patch:
        server.use(patch)
        # Ceph and Swift may take over a minute to delete a thousand versions if the machine is busy.
        client = make_client(Config(read_timeout=600))
    bucket = f"contract-{kind}"
    server.make_bucket(bucket, **BUCKETS[kind])
    return lambda: S3Store(client, bucket, f"some/{uuid4().hex}")


@pytest.fixture(scope="session")
def make_s3_store(s3_stores: Callable[[str], MakeS3Store]) -> MakeS3Store:
    """Return a function that makes empty stores in a plain bucket of SeaweedFS."""
    return s3_stores("seaweed plain")


@pytest.fixture(params=["memory", "folder", "paced", "retrying", "unconditional", *tested()])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Return an empty store of each kind in turn, as puller uses it."""
    if request.param == "memory":
        return MemoryStore()
    if request.param == "paced":
        return PacedStore(MemoryStore(), lambda count: None)
    if request.param == "retrying":
        return RetryingStore(MemoryStore())
    if request.param == "unconditional":
        return UnconditionalStore(MemoryStore())
    if request.param == "folder":
        return FolderStore(tmp_path / "repository")
    stores: Callable[[str], MakeS3Store] = request.getfixturevalue("s3_stores")
    made = stores(request.param)()
    return made if honours_put_if_absent(made, "probe-") else UnconditionalStore(made)
