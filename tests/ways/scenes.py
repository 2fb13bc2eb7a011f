"""Scenes that every way plays. Each scene returns JSON; test_ways.py asserts on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import puller
from puller.backups import reconcile
from puller.errors import HypervisorError, NbdError, PullerError, StoreUnavailable
from puller.hypervisor.guest.quiesce import Quiesced
from puller.nbd.export import Export
from puller.repository.points import Points
from puller.repository.writing.run import Run
from tests.lab.faults import Planned, after, at_step, before
from tests.ways.way import Way

Fault = Callable[[pytest.MonkeyPatch, Way], None]

FAULTS: dict[str, Fault] = {
    "begin, refused": lambda patch, way: before(patch, *way.begin, HypervisorError("gone")),
    "begin, done": lambda patch, way: after(patch, *way.begin),
    "begin, interrupted": lambda patch, _: after(patch, Quiesced, "__enter__", KeyboardInterrupt()),
    "query": lambda patch, _: before(patch, Export, "dirty_bytes", NbdError("gone")),
    "read": lambda patch, _: before(patch, Run, "encode"),
    "store, packs": lambda patch, _: before(patch, Run, "_upload_pack", StoreUnavailable("gone")),
    "store, index": lambda patch, _: before(patch, Run, "_put_index", StoreUnavailable("gone")),
    "store, done": lambda patch, _: after(patch, Run, "store"),
    "commit, refused": lambda patch, _: before(patch, Points, "commit", StoreUnavailable("gone")),
    "commit, done": lambda patch, _: after(patch, Points, "commit"),
    "commit, interrupted": lambda patch, _: before(patch, Points, "commit", KeyboardInterrupt()),
    "end, done": lambda patch, way: after(patch, *way.end),
    "end, interrupted": lambda patch, way: after(patch, *way.end, KeyboardInterrupt()),
    "retire": lambda patch, _: before(patch, reconcile, "retire", HypervisorError("gone")),
}
"""Of each step of the transaction. Besides these, a run is stopped as it enters a step."""


def generations(way: Way) -> dict[str, Any]:
    """A full and two incrementals, of which each is read on its own, and with the older ones deleted."""
    outcomes = [way.take()]
    for _ in range(2):
        way.change()
        outcomes.append(way.take())
    points = puller.list_points(way.repository)
    newest = way.digests_of_a_stranger(points[-1])
    puller.delete(way.repository, [point.point for point in points[:-1]])
    checked = puller.check(way.repository, read_data=100)
    return {
        "outcomes": outcomes,
        "errors": len(checked.errors),
        "alone": way.digests_of_a_stranger(points[-1]) == newest == way.digests_restored(points[-1]),
    }


def stopped(way: Way, step: str) -> dict[str, Any]:
    """A run that ends as it enters a step, and the next."""
    return _failed(way, lambda patch: None, step)


def failed(way: Way, fault: str) -> dict[str, Any]:
    """A run with a fault, and the next."""
    return _failed(way, lambda patch: FAULTS[fault](patch, way), None)


def _failed(way: Way, befall: Callable[[pytest.MonkeyPatch], None], step: str | None) -> dict[str, Any]:
    way.require_point()
    way.change()
    error = "none"
    with pytest.MonkeyPatch.context() as patch:
        befall(patch)
        try:
            way.back_up(None if step is None else at_step(step))
        except (Planned, PullerError, KeyboardInterrupt) as met:
            error = type(met).__name__
    left = way.left()
    way.change()
    return {"error": error, "left": left, "next": way.take()}


def killed(way: Way, step: str) -> dict[str, Any]:
    """A run that is killed while data moves; the guest goes on, and the next run is left to itself."""
    way.require_point()
    way.change()
    code = way.killed(step)
    left = way.left()
    way.change()
    return {"code": code, "left": left, "next": way.take(), "programs": way.programs()}


SCENES: dict[str, Callable[..., dict[str, Any]]] = {
    scene.__name__: scene for scene in (generations, stopped, failed, killed)
}
