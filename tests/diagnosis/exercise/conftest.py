"""A bucket of a real server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import puller
from puller.store.s3.client.client import connect
from puller.store.s3.s3 import S3Store
from tests.lab.seaweed import Seaweed


@pytest.fixture
def s3(
    seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[S3Store]:
    seaweed.use(monkeypatch)
    bucket = f"exercise-{abs(hash(request.node.nodeid)):x}"
    seaweed.make_bucket(bucket)
    puller.create_repository(f"s3://{bucket}/kvm")
    yield connect(bucket, "kvm")
