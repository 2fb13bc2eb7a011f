"""Rules of the house that no linter knows."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import puller

CHANGING = {
    "Faults",
    "Findings",
    "JobReport",
    "OpenPack",
    "Settings",
    "Drills",
    "Taken",
    "_Pack",
    "_Pending",
    "_Prune",
    "Promises",
    "Sweep",
    "_Repair",
}
"""Dataclasses that are no values: what they hold is filled in, or counted, as the work goes on."""


_OF_NBDKIT = {"puller.recovery.serving.callbacks", "puller.recovery.serving.plugin"}
"""They import nbdkit, which exists only in its own process."""


def _dataclasses() -> Iterator[type[Any]]:
    for found in pkgutil.walk_packages(puller.__path__, "puller."):
        if found.name.endswith(".__main__") or found.name in _OF_NBDKIT:
            continue
        module = importlib.import_module(found.name)
        for _, item in inspect.getmembers(module, inspect.isclass):
            if item.__module__ == module.__name__ and is_dataclass(item):
                yield item


def test_values_are_frozen() -> None:
    """Threads share values and caches keep them: a change for one reader would be a change for all."""
    changing = {item.__qualname__ for item in _dataclasses() if not item.__dataclass_params__.frozen}
    assert changing == CHANGING


def test_records_that_threads_read_have_decoders_made_at_the_import() -> None:
    """CPython 3.11 crashes if several threads make the decoder of one type at once, as msgspec does when a
    type is first used: ``puller points`` reads its records in 16 threads.
    """
    root = Path(puller.__file__).parent / "repository"
    lazy = [path.name for path in root.rglob("*.py") if re.search(r"json\.decode\(.*type=", path.read_text())]
    assert lazy == []


def test_no_file_has_conflict_markers() -> None:
    """In documents nothing else notices them."""
    root = Path(__file__).parents[1]
    places = ("docs/*.md", "*.md", "systemd/*", "scripts/*", "puller/**/*.py", "tests/**/*.py")
    texts = {path: path.read_text() for place in places for path in root.glob(place) if path.is_file()}
    assert [
        str(path) for path, text in texts.items() if re.search(r"^(<{7}|>{7}) ", text, re.MULTILINE)
    ] == []
