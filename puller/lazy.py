"""Public names whose modules are loaded on first use."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any


def load(package: str, homes: Mapping[str, str], name: str) -> Any:
    """Return ``name`` from its module: ``homes`` has the names of each, separated by spaces.

    Raises AttributeError if ``package`` has no such name.
    """
    for module, names in homes.items():
        if name in names.split():
            return getattr(import_module(module), name)
    raise AttributeError(f"module {package!r} has no attribute {name!r}")
