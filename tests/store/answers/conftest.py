"""A store at a scripted server."""

from __future__ import annotations

import pytest

from puller.store.s3.client.client import connect
from puller.store.s3.s3 import S3Store
from tests.store.answers.answering import Connect
from tests.store.scripted import ONCE


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Connect:
    """Return what opens a store at an endpoint, which tries each request once."""

    def open_at(endpoint: str) -> S3Store:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
        return connect("bucket", "prefix", ONCE)

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return open_at
