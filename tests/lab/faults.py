"""Faults that tests inject into a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from puller.events import Event, Step


class Planned(Exception):
    """The fault that a test injects."""


def at_step(name: str) -> Callable[[Event], None]:
    """An observer that ends the run when it enters the step."""

    def observe(event: Event) -> None:
        if isinstance(event, Step) and event.name == name:
            raise Planned(name)

    return observe


def before(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, error: BaseException | None = None
) -> None:
    """Make a call fail before it does anything."""

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise error or Planned(name)

    monkeypatch.setattr(owner, name, fail)


def after(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, error: BaseException | None = None) -> None:
    """Make a call fail after it has done its work."""
    real = getattr(owner, name)

    def fail(*args: Any, **kwargs: Any) -> Any:
        real(*args, **kwargs)
        raise error or Planned(name)

    monkeypatch.setattr(owner, name, fail)
