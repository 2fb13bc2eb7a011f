"""Backups of another host's domains: see remote_scenes.py, which plays them between two networks."""

from __future__ import annotations

import json
import subprocess
import tempfile
from typing import Any

import pytest

from puller.units import KIB
from tests.lab.daemon import is_root
from tests.lab.two_hosts import in_own_network

pytestmark = pytest.mark.skipif(not is_root(), reason="a host of its own needs root")


def played(scene: str) -> dict[str, Any]:
    """What came of a scene."""
    with tempfile.TemporaryDirectory(prefix="puller-remote-") as folder:
        command = in_own_network("tests.integration.remote_scenes", [folder, scene])
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        outcome: dict[str, Any] = json.loads(done.stdout)
        return outcome


@pytest.mark.parametrize("way", ["ssh"])
def test_generations_of_another_hosts_domain(way: str) -> None:
    first, *later = played(way)["outcomes"]
    assert (first["kind"], first["exact"], first["left"]) == ("full", True, [])
    for outcome in later:
        assert (outcome["kind"], outcome["exact"], outcome["left"]) == ("incremental", True, [])
        assert outcome["host"] == "kvm1"
        assert 0 < outcome["dirty"]["vda"] <= 24 * 64 * KIB


def test_runs_from_another_host_and_on_the_host_itself_continue_each_other() -> None:
    outcomes = played("alternating")["outcomes"]
    assert [outcome["kind"] for outcome in outcomes] == ["full"] + ["incremental"] * 9
    assert all(outcome["exact"] for outcome in outcomes)
    assert {outcome["host"] for outcome in outcomes} == {"kvm1"}
    assert not any(outcome["left"] for outcome in outcomes)
