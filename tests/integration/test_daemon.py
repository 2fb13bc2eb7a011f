"""What befalls a run on a libvirtd of its own: see daemon_scenes.py, which plays it."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.daemon import in_own_namespace, is_root

pytestmark = pytest.mark.skipif(not is_root(), reason="a private libvirtd needs root")

EXACT = {"exact": True, "left": []}


@pytest.fixture(scope="module")
def scenes() -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="puller-scenes-") as folder:
        command = in_own_namespace("tests.integration.daemon_scenes", [folder])
        played = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert played.returncode == 0, played.stderr
        yield json.loads(played.stdout)


def test_an_agent_that_hangs(scenes: dict[str, Any]) -> None:
    """The guest writes on afterwards: the scene has waited for that."""
    outcome = scenes["hanging_agent"]
    assert outcome.items() >= {**EXACT, "consistency": "crash"}.items()
    words = "Guest agent not available for now|guest agent command timed out: .*"  # libvirt 9; libvirt 11
    expected = re.compile(f"({words}): the point is crash-consistent$")
    assert any(expected.search(notice) for notice in outcome["notices"])


def test_libvirtd_is_killed_and_started_again(scenes: dict[str, Any]) -> None:
    """The run ends its job over a new connection, and does not leave it to the next."""
    outcome = scenes["killed_daemon"]
    during = outcome["during"]
    assert (
        during["message"]
        == "the connection to libvirt at qemu:///system was lost during the backup of domain scenes"
    )
    assert (during["error"], during["code"], during["left"]) == ("ConnectionLost", 15, [])
    assert outcome["next"].items() >= {**EXACT, "kind": "incremental"}.items()


def test_libvirtd_is_killed_and_started_again_while_qemu_pushes(scenes: dict[str, Any]) -> None:
    outcome = scenes["killed_daemon_of_a_push"]
    assert (outcome["during"]["error"], outcome["during"]["left"]) == ("ConnectionLost", [])
    assert outcome["next"].items() >= {**EXACT, "kind": "incremental"}.items()


def test_libvirtd_is_gone_after_the_commit_and_the_job_may_be_open(scenes: dict[str, Any]) -> None:
    outcome = scenes["daemon_gone_after_the_commit"]
    during = outcome["during"]
    assert (during["error"], during["code"]) == ("JobLeftOpen", 17)
    assert "is stored, but its backup job cannot be ended: cannot connect to libvirt at" in during["message"]
    assert during["left"][0] == "a job"
    assert outcome["next"].items() >= {**EXACT, "kind": "incremental"}.items()
    assert "ended a backup job that an earlier run had left open" in outcome["next"]["notices"]


def test_libvirtd_is_back_late_after_the_commit(scenes: dict[str, Any]) -> None:
    """The older checkpoint is the next run's to delete."""
    outcome = scenes["daemon_back_after_the_commit"]
    during = outcome["during"]
    assert (during["kind"], during["exact"]) == ("incremental", True)
    assert any(
        "its backup job is still open, and puller keeps trying to end it: " in text
        for text in during["notices"]
    )
    assert [item for item in during["left"] if not item.startswith("puller-")] == []
    assert outcome["next"].items() >= {**EXACT, "kind": "incremental"}.items()
    assert not any("an earlier run had left open" in text for text in outcome["next"]["notices"])


def test_the_guest_is_powered_off(scenes: dict[str, Any]) -> None:
    """The checkpoint of the failed run can be deleted only when the guest is up again."""
    outcome = scenes["powered_off_guest"]
    during = outcome["during"]
    assert during["message"] == "domain scenes was shut off during the backup"
    assert (during["error"], during["code"]) == ("DomainNotRunning", 15)
    (checkpoint,) = set(during["left"])
    assert during["notices"][-1] == f"cannot delete checkpoint {checkpoint} now; the next run will"
    assert outcome["next"].items() >= {**EXACT, "kind": "incremental"}.items()


@pytest.fixture(scope="module")
def volumes() -> dict[str, Any]:
    """What came of a machine whose disks are volumes of a storage pool."""
    with tempfile.TemporaryDirectory(prefix="puller-volumes-") as folder:
        command = in_own_namespace("tests.integration.volume_scene", [folder])
        played = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert played.returncode == 0, played.stderr
        found: dict[str, Any] = json.loads(played.stdout)
        return found


def test_volumes_of_a_storage_pool(volumes: dict[str, Any]) -> None:
    """The one that libvirt made as qcow2 version 2 has no bitmap; the other is incremental in every mode."""
    rehashed = {"vda": "rehash", "vdb": "incremental"}
    assert volumes["full"] == {"vda": "full", "vdb": "full"}
    assert [volumes[run] for run in ("pull", "push", "offline")] == [rehashed] * 3
    assert volumes["exact"]


def test_a_volume_of_a_running_domain_is_not_overwritten(volumes: dict[str, Any]) -> None:
    assert re.fullmatch(
        r"cannot restore to .*/vda\.qcow2: domain volumes is running with .*/vda\.qcow2", volumes["in use"]
    )


def test_a_copy_on_new_volumes_of_a_pool(volumes: dict[str, Any]) -> None:
    pool = volumes["pool"]
    assert (pool["started"], pool["same"]) == (True, [True, True])
    assert pool["volumes"] == ["copy-vda.qcow2", "copy-vdb.qcow2"]


def test_a_pool_is_left_as_it_was_where_the_restore_is_refused_or_fails(volumes: dict[str, Any]) -> None:
    pool = volumes["pool"]
    assert pool["taken"] == "OutputRefused: storage pool pool has a volume copy-vda.qcow2"
    assert re.fullmatch(r"OutputRefused: .*/precious\.raw exists", pool["mapped"])
    assert pool["kept"] == "precious"
    assert pool["unknown pool"].startswith("HypervisorError: cannot look up storage pool nowhere: ")
    assert pool["unknown network"] == "UsageError: domain volumes is on no network or bridge misspelt"
    assert pool["missing network"] == "UsageError: libvirt at qemu:///system has no network nowhere"
    assert pool["damaged"].startswith("DamagedData: ")
    assert (pool["left"], pool["domains"]) == ([], ["volumes"])
