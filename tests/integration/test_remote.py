"""Backups of another host's domains: see remote_scenes.py, which plays them between two networks."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

from puller.units import KIB, MIB
from tests.lab.daemon import is_root
from tests.lab.two_hosts import in_own_network

pytestmark = [
    pytest.mark.skipif(not is_root(), reason="a host of its own needs root"),
    pytest.mark.skipif(not Path("/usr/sbin/sshd").exists(), reason="needs openssh-server"),
]


LONG = pytest.mark.skipif(
    not os.environ.get("PULLER_TEST_LONG"), reason="takes minutes: set PULLER_TEST_LONG"
)


def played(scene: str) -> dict[str, Any]:
    """What came of a scene."""
    with tempfile.TemporaryDirectory(prefix="puller-remote-") as folder:
        command = in_own_network("tests.integration.remote_scenes", [folder, scene])
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stderr
        outcome: dict[str, Any] = json.loads(done.stdout)
        return outcome


@pytest.mark.parametrize("way", [pytest.param("tls and ssh", marks=LONG), "tls alone", "push"])
def test_generations_of_another_hosts_domain(way: str) -> None:
    first, *later = played(way)["outcomes"]
    assert (first["kind"], first["exact"], first["left"]) == ("full", True, [])
    for outcome in later:
        assert (outcome["kind"], outcome["exact"], outcome["left"]) == ("incremental", True, [])
        assert outcome["host"] == "kvm1"
        assert 0 < outcome["dirty"]["vda"] <= 24 * 64 * KIB
    told = [] if way == "push" else ["reads the disks over TLS from host kvm1"]
    assert first["notices"] == [*told, *first["notes"]]
    lacks = ["the space for the scratch on host kvm1 was not checked", "the point has no images.json"]
    found = [note.partition(":")[0] for note in first["notes"]]
    assert found == (lacks if way == "tls alone" else [])


def test_runs_from_another_host_and_on_the_host_itself_continue_each_other() -> None:
    outcomes = played("alternating")["outcomes"]
    assert [outcome["kind"] for outcome in outcomes] == ["full"] + ["incremental"] * 9
    assert all(outcome["exact"] for outcome in outcomes)
    assert {outcome["host"] for outcome in outcomes} == {"kvm1"}
    assert not any(outcome["left"] for outcome in outcomes)


def test_certificates_that_are_wrong_expired_or_missing_are_refused_and_leave_nothing() -> None:
    outcomes = played("swapped")
    assert {name: outcome.get("error") for name, outcome in outcomes.items()} == {
        "server of another authority": "NbdError",
        "server of another name": "NbdError",
        "expired server": "HypervisorError",  # QEMU's own check, before the job begins
        "server without a key": "HypervisorError",
        "client of another authority": "UsageError",
        "expired client": "UsageError",
        "client without a certificate": "UsageError",
        "tls without certificates": "UsageError",
        "in order": None,
    }
    assert not any(outcome["left"] for outcome in outcomes.values())
    assert outcomes["in order"]["exact"]


def test_nobody_else_reads_the_disks_while_they_are_frozen() -> None:
    outcome = played("strangers")
    assert outcome["answers"] == {
        "in order": str(24 * MIB),
        "clear text": "refused",
        "no certificate": "refused",
        "foreign certificate": "refused",
    }
    assert (outcome["outcome"]["exact"], outcome["clear"]["exact"]) == (True, True)
    assert outcome["clear"]["notices"] == [
        "reads the disks in clear text, which the network can read, from host kvm1"
    ]


def test_a_user_who_is_not_root_needs_tls() -> None:
    """puller refuses before the job begins; it also refuses a user's session on another host."""
    outcomes = played("another user")
    ways = ("ssh", "push", "session", "freeze")
    refused = {way: (outcomes[way]["error"], outcomes[way]["message"]) for way in ways}
    assert refused == {
        "ssh": (
            "UsageError",
            "cannot read the disks of domain far through ssh: the user of ssh on host kvm1 is not root, and "
            "QEMU's socket is open to root only",
        ),
        "push": (
            "UsageError",
            "cannot read pushed images of domain far: the user of ssh on host kvm1 is not root",
        ),
        "session": (
            "UsageError",
            "cannot use qemu+ssh://keeper@kvm1/session: puller does not reach the session of a user on "
            "another host",
        ),
        "freeze": (
            "UsageError",
            "cannot freeze domain far on host kvm1: only root can reach QEMU's socket there, through ssh",
        ),
    }
    assert outcomes["doctor"]["socket"] == "warn"
    assert "fail" not in outcomes["doctor"].values()
    taken = [outcomes[name] for name in ("tls", "tls again", "shut off")]
    assert [outcome["kind"] for outcome in taken] == ["full", "incremental", "incremental"]
    assert all(outcome["exact"] for outcome in taken)
    assert not any(outcome["left"] for outcome in (*taken, *(outcomes[way] for way in ways[:3])))


def test_a_domain_that_is_shut_off_is_read_by_a_server_on_its_host() -> None:
    """Between two points of the running domain; writes to its image meanwhile are noticed or refused."""
    played_ = played("shut off")
    running, off, again, written, start = played_["outcomes"]
    kinds = [outcome["kind"] for outcome in (running, off, again, start)]
    assert kinds == ["full", "incremental", "incremental", "incremental"]
    assert all(outcome["exact"] for outcome in (running, off, again, start))
    assert written["message"].endswith("far-vda.img of domain far was changed while it was read")
    assert not any(outcome["left"] for outcome in played_["outcomes"])
    assert played_["servers"] == []


def test_a_line_that_is_cut_for_ten_seconds_costs_only_the_wait() -> None:
    outcome = played("cut for 10 s")
    for run in (outcome["during"], outcome["next"]):
        assert (run["kind"], run["exact"], run["left"]) == ("incremental", True, [])


@pytest.mark.parametrize("way", [pytest.param("cut for 60 s", marks=LONG), "tls cut for 60 s"])
def test_the_job_ends_as_soon_as_there_is_a_line_again(way: str) -> None:
    outcome = played(way)
    during = outcome["during"]
    assert (during["error"], during["code"], during["left"]) == ("ConnectionLost", 15, [])
    assert "the line to host kvm1 is broken; puller tries to end the job" in during["notices"]
    following = outcome["next"]
    assert (following["kind"], following["exact"], following["left"]) == ("incremental", True, [])


def test_a_line_that_stays_away_leaves_the_job_to_the_next_run() -> None:
    outcome = played("cut for good")
    assert (outcome["during"]["error"], outcome["open"]) == ("ConnectionLost", True)
    following = outcome["next"]
    assert (following["kind"], following["exact"], following["left"]) == ("incremental", True, [])
    assert "ended a backup job that an earlier run had left open" in following["notices"]


def test_doctor_and_forget_ask_the_other_host() -> None:
    outcome = played("diagnosed")
    asked = ("host-files", "scratch-access", "scratch-space", "scratch-leftovers", "socket", "disk-image")
    assert outcome["ssh"].items() >= dict.fromkeys(asked, "ok").items(), outcome["texts"]
    assert outcome["tls"].items() >= {"host-files": "warn", "scratch-space": "warn"}.items()
    assert "fail" not in {*outcome["ssh"].values(), *outcome["tls"].values()}
    assert outcome["forgotten"] == [2, 2]
    assert not outcome["bitmaps"]
    why = "cannot read images of domain far: puller has no way to the files of host kvm1"
    assert outcome["closed"] == ["UsageError", why]


def test_firmware_variables_and_tpm_states_are_read_on_their_host() -> None:
    outcome = played("firmware")
    for run in (outcome["running"], outcome["off"]):
        assert (run["exact"], run["notes"]) == (True, [])
        assert {"nvram.fd", "tpm.tar"} <= set(run["attachments"])
    assert outcome["nvram"]
    assert any(name.endswith("permall") for name in outcome["tpm"])


def test_encrypted_disks_of_another_host() -> None:
    """The passphrase is libvirt's secret there; temporary files are encrypted, too."""
    outcome = played("encrypted")
    assert [run["kind"] for run in outcome["outcomes"]] == ["full", *["incremental"] * 3]
    assert all(run["exact"] and not run["left"] for run in outcome["outcomes"])
    assert len(outcome["secrets"]) == 1


def test_the_scratch_of_the_other_host_is_checked_and_watched() -> None:
    outcome = played("full scratch")
    small, filled = outcome["small"], outcome["filled"]
    assert (small["error"], filled["error"]) == ("ScratchFull", "ScratchFull")
    assert small["message"].endswith("free, but 256 MiB are needed")
    assert filled["message"].endswith("the backup was ended before guest writes could fail")
    assert (small["left"], filled["left"]) == ([], [])


def test_one_puller_at_a_time_whichever_host_it_runs_on() -> None:
    outcome = played("locked")
    holder = f"process {outcome['process']} of host {outcome['host']}"
    assert outcome["messages"]["here"].startswith(f"Locked: domain far is being backed up by {holder} (")
    assert f"domain far is being backed up by {holder}" in outcome["messages"]["there"]
    assert outcome["outcome"]["exact"]


def test_another_program_reads_the_frozen_disks_of_another_host() -> None:
    assert played("freeze") == {"code": 0, "exact": True, "left": []}


def test_a_port_that_is_in_use_is_passed_over() -> None:
    second, none = played("ports")["outcomes"]
    assert (second["exact"], second["left"]) == (True, [])
    assert none["message"] == "all ports from 20000 to 20000 of kvm1 are in use"
    assert (none["code"], none["left"]) == (15, [])


def test_the_rules_of_a_job_count_the_points_of_the_other_host() -> None:
    outcome = played("nightly")
    assert outcome["codes"] == [0, 0], outcome["said"]
    assert [len(removed) for removed in outcome["removed"]] == [0, 1]
    assert outcome["hosts"] == ["kvm1"]
    assert "reads the disks over TLS from host kvm1" in outcome["said"]
