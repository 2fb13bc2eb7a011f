"""Fixtures that many rooms' tests share."""

from __future__ import annotations

import gc
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path

import pytest

from puller.repository.keys import key_slots
from tests.lab import appliance
from tests.lab.providers import SERVERS
from tests.lab.s3server import S3Server

pytest_plugins = ["tests.lab.fixtures", "tests.lab.vault"]

_LONG = (
    "integration/test_booting.py",
    "integration/test_remote.py",
    "ways/test_ways.py",
    "integration/test_drills.py",
    "recovery/test_files.py",
    "integration/test_daemon.py",
    "fleet/test_fleet.py",
    "upkeep/test_simulation.py",
    "fleet/test_kills.py",
    "docs/test_policies.py",
    "integration/test_meddling.py",
    "integration/test_luks.py",
    "integration/test_data_files.py",
)
"""Files whose tests take minutes, the longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the long files: a process gets whole ones, and the last to come should be short."""
    order = {Path(__file__).parent / name: rank for rank, name in enumerate(_LONG)}
    items.sort(key=lambda item: order.get(item.path, len(order)))


@pytest.fixture(scope="session", autouse=True)
def heed_interrupts() -> None:
    """A shell lets what it runs in the background ignore SIGINT, and so would every process of the tests."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def nothing_is_frozen() -> Iterator[None]:
    """A command leaves what it has loaded out of later garbage collections. Here the process lives on."""
    yield
    gc.unfreeze()


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Caches of the tests' repositories are not the user's business."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PULLER_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def cheap_passwords() -> Iterator[None]:
    """A new key slot would cost a sixth of a second of processor time, and again each time it is opened.

    Processes of their own write slots with the usual costs; test_slots.py asserts these.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(key_slots, "Kdf", partial(key_slots.Kdf, memory_kib=32, iterations=1, lanes=1))
        yield


@pytest.fixture(scope="session", autouse=True)
def libguestfs() -> Iterator[None]:
    """A kernel for libguestfs's appliance: a bare machine has none installed."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in appliance.environment().items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], S3Server]]:
    """Start each of SERVERS when a test first needs it; tests make their own buckets on it."""
    with ExitStack() as stack:
        yield cache(lambda name: stack.enter_context(SERVERS[name](tmp_path_factory.mktemp(name))))


@pytest.fixture(scope="session")
def seaweed(servers: Callable[[str], S3Server]) -> S3Server:
    """The session's SeaweedFS."""
    return servers("seaweed")


@pytest.fixture(scope="session")
def ceph(servers: Callable[[str], S3Server]) -> S3Server:
    """The session's Ceph."""
    return servers("ceph")
