"""Booted machines that somebody meddles with while they are pulled: see meddling_scenes.py."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.daemon import in_own_namespace, is_root

pytestmark = pytest.mark.skipif(not is_root(), reason="a private libvirtd needs root")


@pytest.fixture(scope="module")
def scenes() -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="puller-boot-") as folder:
        command = in_own_namespace("tests.integration.meddling_scenes", [folder])
        played = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        assert played.returncode == 0, played.stderr
        yield json.loads(played.stdout)


def test_a_machine_that_virsh_starts_after_qemu_was_killed_reads_the_point_and_no_zeros(
    scenes: dict[str, Any],
) -> None:
    """Its image names no server any more and lacks data, so only the definition leads there."""
    found = scenes["started_by_hand"]
    assert (found["behind"], found["lacking"] > 0) == (None, True)
    assert (found["wrong_reads"], found["wrong_writes"]) == ([], [])


def test_such_a_machine_is_pulled_to_its_end(scenes: dict[str, Any]) -> None:
    found = scenes["started_by_hand"]
    assert (found["outcome"]["code"], found["outcome"].get("state")) == (0, "standalone")
    assert found["untouched"]
    assert (found["defined"], found["left"]) == ([True, False], [])


def test_a_machine_that_runs_without_its_server_is_not_whole(scenes: dict[str, Any]) -> None:
    """Its images' headers name the server all the same, where another reader would find the data."""
    edited = scenes["edited"]
    message = edited["kept"]["error"]["message"]
    assert message.endswith("lacks data, and the running machine has no server behind it")
    assert (edited["whole"], edited["left"]) == ([False, False], [])


def test_a_machine_with_a_snapshot_is_not_pulled_for_the_snapshot_needs_the_point(
    scenes: dict[str, Any],
) -> None:
    found = scenes["other_commands"]
    assert found["refused"]["error"]["message"] == (
        "cannot pull disk vda of web1-boot: the machine has snapshots (before), which need the point"
    )
    assert found["refused"]["error"]["advice"].startswith("Delete them with 'virsh snapshot-delete'")
    assert found["behind"]


def test_a_backup_of_a_machine_that_is_being_pulled(scenes: dict[str, Any]) -> None:
    (failed,) = scenes["other_commands"]["backup"]["failed"]
    assert failed["error"]["message"] == (
        "cannot begin a backup of domain web1-boot: the data of disk vda is being pulled"
    )
    assert "'puller boot --list' shows when a booted machine stands alone" in failed["error"]["advice"]


def test_who_pulls_a_machine_learns_that_it_was_discarded(scenes: dict[str, Any]) -> None:
    found = scenes["other_commands"]
    error = found["pulling"]["error"]
    assert (found["discarded"], found["pulling"]["code"]) == (0, 16)
    assert error["message"] == "machine web1-boot was discarded while its data was pulled"
    assert found["left"] == []


def test_a_network_that_is_not_active_is_named_before_anything_is_made(scenes: dict[str, Any]) -> None:
    error = scenes["asleep"]["answer"]["error"]
    assert error["message"] == "libvirt's network asleep is not active"
    assert error["advice"].startswith("Start it with 'virsh net-start asleep'")
    assert scenes["asleep"]["left"] == []
