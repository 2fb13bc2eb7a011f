"""Machines that run from a point in a bucket, and instant recovery: see boot_scenes.py, which plays it."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.disaster_scene import OVMF
from tests.lab.daemon import in_own_namespace, is_root

pytestmark = [
    pytest.mark.skipif(not is_root(), reason="a private libvirtd needs root"),
    pytest.mark.skipif(not (OVMF / "OVMF_CODE_4M.fd").exists(), reason="the package ovmf is not installed"),
]


@pytest.fixture(scope="module")
def scenes() -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="puller-boot-") as folder:
        command = in_own_namespace("tests.integration.boot_scenes", [folder])
        played = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        assert played.returncode == 0, played.stderr
        yield json.loads(played.stdout)


@pytest.fixture
def recovery(scenes: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = scenes["instant_recovery"]
    return found


def test_a_guest_sees_no_error_while_puller_nbdkit_libvirtd_and_the_store_are_killed(
    recovery: dict[str, Any],
) -> None:
    """All of them in mid-pull, and the guest reads and writes all the while."""
    assert (recovery["killed"], recovery["stopped"]["code"]) == (-9, 130)
    assert recovery["in_mid_pull"]
    assert (recovery["errors"], recovery["turns"] > 15) == ([], True)


def test_what_the_guest_read_and_wrote_during_the_recovery_is_right(recovery: dict[str, Any]) -> None:
    assert recovery["wrong_reads"] == []
    assert recovery["wrong_writes"] == []


def test_a_machine_whose_puller_was_killed_is_pulled_on_and_can_be_watched_again(
    recovery: dict[str, Any],
) -> None:
    assert recovery["state"] == [["pulling", True, True]]
    assert (recovery["outcome"]["code"], recovery["outcome"]["state"]) == (0, "standalone")


def test_a_machine_is_alone_when_its_images_are_whatever_the_record_says(recovery: dict[str, Any]) -> None:
    assert (recovery["noted_late"]["code"], recovery["noted_late"].get("state")) == (0, "standalone")


def test_what_was_pulled_is_there_though_qemu_is_killed_right_after_that(scenes: dict[str, Any]) -> None:
    """QEMU names no server any more while it still holds in memory what it has pulled."""
    lost = scenes["lost_memory"]
    assert (lost["outcome"]["code"], lost["outcome"].get("state")) == (0, "standalone")
    assert (lost["vda"], lost["vdb"]) == (True, True)


def test_the_place_of_a_machine_that_stands_alone_is_taken(scenes: dict[str, Any]) -> None:
    lost = scenes["lost_memory"]
    assert lost["advice"].startswith("Choose another --name, or delete /")
    assert lost["left"] == []


def test_who_stops_puller_learns_that_the_machine_runs_on(recovery: dict[str, Any]) -> None:
    stopped = recovery["stopped"]
    assert (stopped["domain"], stopped["state"]) == ("web1-boot", "pulling")
    assert stopped["error"]["message"] == (
        "stopped by SIGTERM: web1-boot runs, and QEMU pulls the current disk to its end"
    )
    assert stopped["error"]["advice"] == "Run 'puller boot --resume web1-boot' to pull the rest."


def test_a_machine_that_stands_alone_starts_without_a_server(recovery: dict[str, Any]) -> None:
    assert (recovery["behind"], recovery["nbd_in_xml"], recovery["again"]) == (None, False, True)
    assert recovery["left"] == []


def test_a_machine_that_stands_alone_is_not_discarded(recovery: dict[str, Any]) -> None:
    assert recovery["refused"]["code"] == 2
    assert recovery["refused"]["error"]["message"].startswith("machine web1-boot stands alone")


def test_a_booted_machine_is_backed_up_like_any_other(scenes: dict[str, Any]) -> None:
    assert scenes["instant_recovery"]["backups"] == ["full", "incremental"]
    running = scenes["running_machine"]
    assert running["backups"] == ["full", "incremental"]
    assert running["exact"] == {"wrong_writes": [], "same": True}


def test_a_point_is_protected_as_long_as_a_machine_runs_from_it(scenes: dict[str, Any]) -> None:
    (note,) = scenes["running_machine"]["protected"]
    assert note.startswith("booted as web1-boot on ")


def test_the_answer_of_a_boot(scenes: dict[str, Any]) -> None:
    answer = scenes["running_machine"]["began"]
    assert answer.keys() >= {"domain", "uuid", "point", "overlays", "seconds", "state"}
    assert (answer["domain"], answer["state"], set(answer["overlays"])) == (
        "web1-boot",
        "running",
        {"vda", "vdb"},
    )
    assert scenes["running_machine"]["memory"] == 160 * 1024


def test_a_machine_is_put_together_again_after_a_power_cut_of_the_host(scenes: dict[str, Any]) -> None:
    running = scenes["running_machine"]
    assert running["off"] == [["running", False, False]]
    assert (running["resumed"]["code"], running["wrong_reads"]) == (0, [])


def test_a_discarded_machine_leaves_nothing(scenes: dict[str, Any]) -> None:
    running = scenes["running_machine"]
    assert (running["discarded"]["code"], running["left"]) == (0, [])


def test_a_boot_that_fails_or_is_stopped_leaves_nothing(scenes: dict[str, Any]) -> None:
    failures = scenes["failures"]
    assert failures["taken"]["error"]["name"] == "DomainExists"
    assert failures["network"]["error"]["message"].startswith(
        "cannot start domain web1-boot: Network not found"
    )
    assert "is too long for a socket" in failures["long"]["error"]["message"]
    assert failures["stopped"] == 130
    assert [answer["code"] for answer in failures["unknown"]] == [16, 16]
    assert failures["left"] == []


def test_a_machine_boots_on_a_host_that_lacks_what_was_around_it(scenes: dict[str, Any]) -> None:
    """A medium, a bridge and a network; and without arguments of the original's."""
    strange = scenes["strange_host"]
    assert (strange["began"]["code"], strange["runs"]) == (0, True), strange["began"]
    assert (strange["links"], strange["arguments"]) == (3, [])
    assert "this host has no active network br-nowhere" in strange["began"]["stderr"]
    assert "without qemu:commandline" in strange["began"]["stderr"]
    assert strange["left"] == []


def test_a_boot_that_was_killed_is_listed_and_can_be_discarded(scenes: dict[str, Any]) -> None:
    killed = scenes["killed_boot"]
    assert killed["listed"] == [["web1-boot", "booting"]]
    assert killed["resumed"]["code"] == 2
    assert (killed["discarded"]["code"], killed["left"]) == (0, [])


def test_a_pull_leaves_room_for_what_the_guest_writes(scenes: dict[str, Any]) -> None:
    full = scenes["full_storage"]
    assert full["began"]["code"] == 15
    message = full["began"]["error"]["message"]
    assert message.startswith("cannot pull all of disk vda of web1-boot: less than 2.0 MiB is free in ")
    assert full["began"]["error"]["advice"].startswith("Make room there, then run 'puller boot --resume")
    assert full["resumed"] == "standalone"
    assert (full["wrong_reads"], full["wrong_writes"]) == ([], [])


def test_a_machine_with_firmware_variables_and_a_tpm_runs_beside_its_original(scenes: dict[str, Any]) -> None:
    """It has its own of both, its cable is out, and it goes without a trace."""
    firmware = scenes["firmware"]
    assert (firmware["began"], firmware["beside"], firmware["links"]) == (0, [True, True], 1)
    assert len(firmware["made"]) == 2
    assert "uefi-copy_VARS.fd" in firmware["made"]
    assert firmware["left"] == []


def test_a_machine_of_which_data_is_lost_runs_but_does_not_stand_alone(scenes: dict[str, Any]) -> None:
    damaged = scenes["damaged"]
    assert damaged["began"]["code"] == 15
    assert damaged["began"]["error"]["message"] == (
        "cannot pull all of disk vda of uefi-copy: QEMU's job ended 3 times before its end"
    )
    assert (damaged["began"]["domain"], damaged["began"]["state"]) == ("uefi-copy", "pulling")
    assert damaged["runs"]
    assert damaged["listed"] == [["uefi-copy", "pulling", True]]
    assert "disk vda is damaged from byte" in damaged["log"]
    assert damaged["left"] == []
