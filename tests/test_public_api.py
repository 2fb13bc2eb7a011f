"""What ``import puller`` offers."""

from __future__ import annotations

import pkgutil

import puller


def test_no_room_has_the_name_of_a_function() -> None:
    """Python binds a subpackage to its name in the package once it is imported, over what was there."""
    rooms = {module.name for module in pkgutil.iter_modules(puller.__path__)}
    assert rooms.isdisjoint(puller.__all__)


def test_every_name_can_be_had() -> None:
    assert [name for name in puller.__all__ if not hasattr(puller, name)] == []
