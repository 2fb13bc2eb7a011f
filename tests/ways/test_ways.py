"""The same for all ways to the disks: pull, push, another host over TLS or ssh, QEMU without libvirt."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.daemon import is_root
from tests.ways.kinds import WAYS
from tests.ways.player import Player
from tests.ways.scenes import FAULTS

STEPS = ("reconcile", "choose", "preflight", "begin", "read", "store", "commit", "end", "retire")

_SLOW = ("ssh", "tls")

_OF_SLOW = {"begin, done", "query", "read", "store, packs", "commit, refused", "end, done", "retire"}
"""One fault of each step. All others run by slow ways only with PULLER_TEST_LONG."""


def _needs(way: str) -> tuple[pytest.MarkDecorator, ...]:
    return (
        pytest.mark.skipif(way != "qmp" and not is_root(), reason="a daemon of its own needs root"),
        pytest.mark.skipif(
            way in _SLOW and not Path("/usr/sbin/sshd").exists(), reason="needs openssh-server"
        ),
    )


@pytest.fixture(scope="module", params=[pytest.param(way, marks=_needs(way)) for way in WAYS])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def player(way: str) -> Iterator[Player]:
    """One machine for all tests of a way. Its folder has a short path, as sockets are in it."""
    with tempfile.TemporaryDirectory(prefix="ways-") as folder, Player(way, Path(folder)) as player:
        yield player


def assert_sound(outcome: dict[str, Any], kinds: tuple[str, str, str]) -> None:
    assert tuple(outcome["kinds"]) == kinds, outcome["reasons"]
    assert (outcome["restored"], outcome["read by a stranger"]) == (True, True)
    assert outcome["dirty"] == outcome["seen"]
    assert (outcome["left"], outcome["checkpoints"]) == ([], [])


INCREMENTAL = ("incremental", "incremental", "rehash")


TOLD = {
    "tls": "reads the disks over TLS from host kvm1",
    "ssh": "reads the disks through ssh from host kvm1",
}


def test_generations(way: str, player: Player) -> None:
    played = player.play("generations")
    first, *later = played["outcomes"]
    assert_sound(first, ("full", "full", "full"))
    if way in TOLD:
        assert first["notices"][0] == TOLD[way]
    for outcome in later:
        assert_sound(outcome, INCREMENTAL)
        assert 0 < outcome["dirty"]["vda"] < 12 << 20
    assert (played["errors"], played["alone"]) == (0, True)


def _left_to_long(way: str, is_core: bool) -> None:
    if way in _SLOW and not is_core and not os.environ.get("PULLER_TEST_LONG"):
        pytest.skip("slow by this way: set PULLER_TEST_LONG")


@pytest.mark.parametrize("step", STEPS)
def test_a_run_stopped_at_a_step(way: str, player: Player, step: str) -> None:
    _left_to_long(way, is_core=False)
    played = player.play("stopped", step)
    assert (played["error"], played["left"]) == ("Planned", [])
    assert_sound(played["next"], INCREMENTAL)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_run_that_fails_inside_a_step(way: str, player: Player, fault: str) -> None:
    _left_to_long(way, is_core=fault in _OF_SLOW)
    played = player.play("failed", fault)
    assert (played["error"] == "none") == (fault == "retire")
    assert played["left"] == []
    assert_sound(played["next"], INCREMENTAL)


def test_a_run_that_is_killed_while_data_moves(way: str, player: Player) -> None:
    for step in WAYS[way].deaths:
        played = player.play("killed", step)
        assert played["code"] == -signal.SIGKILL
        assert played["left"] != []
        assert_sound(played["next"], INCREMENTAL)
        assert played["programs"] == []
