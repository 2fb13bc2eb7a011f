"""Encrypted disks: what luks_scenes.py plays on a libvirtd of its own."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest

from puller.units import KIB
from tests.lab.daemon import in_own_namespace, is_root

pytestmark = pytest.mark.skipif(not is_root(), reason="a private libvirtd needs root")

LUKS = {"vda": "luks", "vdb": "luks"}
SOUND: dict[str, Any] = {"wrong": [], "left": []}


@pytest.fixture(scope="module")
def scenes() -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="puller-scenes-") as folder:
        command = in_own_namespace("tests.integration.luks_scenes", [folder])
        played = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        assert played.returncode == 0, played.stderr
        yield json.loads(played.stdout)


def test_an_encrypted_disk_means_the_same_whether_its_guest_runs_or_not(scenes: dict[str, Any]) -> None:
    """Pulled, read from its image and pushed by turns: plain text, byte for byte, and incremental."""
    outcomes = scenes["states"]
    assert [outcome["kinds"]["vda"] for outcome in outcomes] == ["full", *["rehash"] * 4]
    assert [outcome["kinds"]["vdb"] for outcome in outcomes] == ["full", *["incremental"] * 4]
    for outcome in outcomes:
        assert outcome.items() >= {**SOUND, "encryption": LUKS}.items()


def test_what_lies_on_the_host_of_an_encrypted_disk_is_encrypted(scenes: dict[str, Any]) -> None:
    """Scratch and pushed images, for their owner only; no passphrase is in a command or an environment."""
    assert scenes["exposed"] == []


def test_pushed_images_that_stay_open_with_the_passphrase_of_the_disk(scenes: dict[str, Any]) -> None:
    assert scenes["kept"].items() >= {**SOUND, "right": ["vdb"]}.items()


def test_the_secret_of_a_run_that_was_killed_is_removed(scenes: dict[str, Any]) -> None:
    outcome = scenes["leftover"]
    assert outcome["before"] == 1
    assert outcome.items() >= SOUND.items()
    assert f"removed libvirt's secret {outcome['name']} of an earlier run" in outcome["told"]


def test_a_run_that_fails_before_it_begins_leaves_no_secret(scenes: dict[str, Any]) -> None:
    assert (scenes["failed_begin"]["error"], scenes["failed_begin"]["left"]) == ("NotQuiesced", [])


def test_a_secret_that_libvirt_keeps_to_itself(scenes: dict[str, Any]) -> None:
    """A pull needs it not; a push compares nothing; of a domain that is shut off nothing can be read."""
    outcome = scenes["private"]
    assert outcome["push"].items() >= {**SOUND, "kinds": {"vdb": "rehash"}}.items()
    for refused in ("kept", "off", "gone"):
        assert outcome[refused]["error"] == "UnsupportedDisk"
        assert "libvirt does not give the value of its secret" in outcome[refused]["message"]
        assert outcome[refused]["advice"].startswith("Set the secret's value and define it with private=")
    assert (outcome["well"], outcome["ill"]) == (["warn"] * 2, ["fail"] * 2)
    assert "secret is private" in outcome["off"]["message"]
    assert "no secret with matching uuid" in outcome["gone"]["message"]
    assert outcome["back"].items() >= SOUND.items()


def test_an_encrypted_disk_is_rolled_back_inside_its_encryption(scenes: dict[str, Any]) -> None:
    outcome = scenes["rolled_back"]
    assert outcome["changed"] == {"vda": 2 * 64 * KIB, "vdb": 2 * 64 * KIB}
    assert (outcome["wrong"], outcome["kinds"]["vdb"]) == ([], "incremental")


def test_an_encrypted_image_whose_secret_the_domain_does_not_name(scenes: dict[str, Any]) -> None:
    assert scenes["unnamed"]["error"] == "UnsupportedDisk"
    assert scenes["unnamed"]["message"].endswith("the domain's XML names no secret for it")


def test_a_restored_disk_is_said_to_be_without_encryption(scenes: dict[str, Any]) -> None:
    assert [text for text in scenes["restored"] if "vdb" in text] == [
        f"disk vdb was encrypted (luks) and is restored without encryption: {advice}"
        for advice in (
            "define the domain by restored.xml; domain.xml still has <encryption>",
            "remove <encryption> from the disk in the domain's XML, or encrypt the image, before the domain "
            "uses it",
        )
    ]
    assert scenes["plain"] == [
        "disk vda is encrypted on its host, but its content is stored unencrypted: the repository is not "
        "encrypted",
    ]
