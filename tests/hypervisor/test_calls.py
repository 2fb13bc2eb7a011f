"""A libvirt that hangs is left, one that works is waited for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from puller.cancelling import CancelScope
from puller.errors import HypervisorError
from puller.hypervisor import calls
from puller.hypervisor.calls import Guarded, Link


def apart(work: Callable[[], object]) -> object:
    """What ``work`` returns or raises in a thread that is not the main one."""
    met: list[object] = []

    def run() -> None:
        try:
            met.append(work())
        except HypervisorError as error:
            met.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(60)
    (found,) = met
    return found


def hang() -> None:
    threading.Event().wait(3600)


def test_a_call_that_works_is_waited_for_though_the_scope_is_cancelled() -> None:
    """A begin is to be undone by who knows of it."""
    scope = CancelScope()

    def begin() -> str:
        scope.cancel()
        threading.Event().wait(0.5)
        return "begun"

    handle = Guarded(SimpleNamespace(begin=begin), Link(), scope)
    assert apart(handle.begin) == "begun"
    assert apart(handle.within(CancelScope()).begin) == "begun"


def test_after_one_call_that_hangs_the_others_are_given_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "LIMIT", 0.1)
    handle = Guarded(SimpleNamespace(state=hang, name=lambda: "web1"), Link(), CancelScope())
    first = apart(handle.state)
    monkeypatch.setattr(calls, "LIMIT", 3600.0)
    monkeypatch.setattr(calls, "HUNG", 0.1)
    for error in (first, apart(handle.state)):
        assert isinstance(error, HypervisorError)
        assert error.message == "libvirt does not answer"
    assert handle.name() == "web1"


def test_what_a_call_gives_is_guarded_too() -> None:
    made: Any = type("virDomain", (), {"__module__": "libvirt", "isActive": lambda _: 1})()
    handle = Guarded(SimpleNamespace(all=lambda: [made], state=lambda: [1, 2]), Link(), CancelScope())
    (domain,) = handle.all()
    assert isinstance(domain, Guarded)
    assert (domain.isActive(), handle.state()) == (1, [1, 2])
