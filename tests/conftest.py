"""Fixtures that many rooms' tests share."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.lab import appliance
from tests.lab.ceph import Ceph
from tests.lab.seaweed import Seaweed

pytest_plugins = ["tests.lab.fixtures", "tests.lab.vault"]


@pytest.fixture(scope="session", autouse=True)
def heed_interrupts() -> None:
    """A shell lets what it runs in the background ignore SIGINT, and so would every process of the tests."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Caches of the tests' repositories are not the user's business."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PULLER_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def libguestfs() -> Iterator[None]:
    """A kernel for libguestfs's appliance: a bare machine has none installed."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in appliance.environment().items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    """One S3 server for the whole session; tests make buckets of their own on it."""
    with Seaweed(tmp_path_factory.mktemp("seaweed")) as server:
        yield server


@pytest.fixture(scope="session")
def ceph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ceph]:
    """Ceph's S3 server for the whole session, like ``seaweed``."""
    with Ceph(tmp_path_factory.mktemp("ceph")) as server:
        yield server
