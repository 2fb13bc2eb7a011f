"""The stores that the contract is tested on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

from puller.store.base import Store
from puller.store.folder import FolderStore
from puller.store.paced import PacedStore
from puller.store.retrying import RetryingStore
from puller.store.s3.client import make_client
from puller.store.s3.s3 import S3Store
from puller.store.unconditional import UnconditionalStore
from tests.lab.memory import MemoryStore
from tests.lab.seaweed import Seaweed

MakeS3Store = Callable[[], S3Store]


@pytest.fixture(scope="session")
def make_s3_store(seaweed: Seaweed) -> MakeS3Store:
    """Return what makes empty stores: prefixes in one bucket, since a client takes 0.4 s to make."""
    with pytest.MonkeyPatch.context() as patch:
        seaweed.use(patch)
        client = make_client()
    seaweed.make_bucket("contract")
    return lambda: S3Store(client, "contract", f"some/{uuid4().hex}")


@pytest.fixture(params=["memory", "folder", "s3", "paced", "retrying", "unconditional"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Return an empty store of each kind in turn."""
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
    make: MakeS3Store = request.getfixturevalue("make_s3_store")
    return make()
