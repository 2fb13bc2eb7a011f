"""What ``import puller`` offers."""

from __future__ import annotations

import pkgutil
from pathlib import Path

import pytest

import puller
from puller.errors import StoreUnavailable


def test_no_room_has_the_name_of_a_function() -> None:
    """Python binds a subpackage to its name in the package once it is imported, over what was there."""
    rooms = {module.name for module in pkgutil.iter_modules(puller.__path__)}
    assert rooms.isdisjoint(puller.__all__)


def test_every_name_can_be_had() -> None:
    assert [name for name in puller.__all__ if not hasattr(puller, name)] == []


def test_any_thread_can_end_the_waits_of_a_repository(tmp_path: Path) -> None:
    """And of nothing else: another opening of the same place goes on."""
    other, scope = puller.create_repository(str(tmp_path / "r")), puller.CancelScope()
    repository = puller.open_repository(str(tmp_path / "r"), scope=scope)
    assert puller.list_points(repository) == []
    scope.cancel()
    with pytest.raises(StoreUnavailable, match="given up before it was answered"):
        puller.list_points(repository)
    assert puller.list_points(other) == []
