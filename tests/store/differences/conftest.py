"""A store on a stub of a server."""

from __future__ import annotations

from pathlib import Path

import pytest

from puller.store.s3.client.client import connect
from tests.store.differences.differing import Open, Opened
from tests.store.scripted import ONCE
from tests.store.stub import Stub


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Open:
    """Return a function that opens the bucket of a stub and tries each request once."""

    def open_at(stub: Stub) -> Opened:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", stub.endpoint)
        return Opened(connect("bucket", "kvm", ONCE))

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    return open_at
