"""docs/recovery.md, "On a new host": walked without cache and libvirt state, with other paths."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.disaster_scene import OVMF
from tests.lab.daemon import in_own_namespace, is_root

pytestmark = [
    pytest.mark.skipif(not is_root(), reason="a private libvirtd needs root"),
    pytest.mark.skipif(not (OVMF / "OVMF_CODE_4M.fd").exists(), reason="the package ovmf is not installed"),
]


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """What came of the host that burns down, and of the one that takes over."""
    with tempfile.TemporaryDirectory(prefix="puller-fire-") as folder:
        repository = str(Path(folder) / "repository")
        found = []
        for part in ("before", "after"):
            home = Path(folder) / part
            home.mkdir()
            command = in_own_namespace("tests.integration.disaster_scene", [part, str(home), repository])
            played = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
            assert played.returncode == 0, played.stderr[-4000:]
            found.append(json.loads(played.stdout))
        yield found[0], found[1]


Hosts = tuple[dict[str, Any], dict[str, Any]]


def test_all_machines_are_back_with_their_firmware_and_tpm(hosts: Hosts) -> None:
    before, after = hosts
    assert "error" not in after, after
    for name in ("web1", "database"):
        was, found = before["machines"][name], after["machines"][name]
        assert (found["uuid"], found["mac"]) == (was["uuid"], was["mac"])
        for target in ("vda", "vdb"):
            assert found["disks"][target]["content"] == was["disks"][target]["content"]
            assert found["disks"][target]["format"] == was["disks"][target]["format"]
            assert found["disks"][target]["path"] != was["disks"][target]["path"]
        assert (found["variables"], found["tpm"]) == (was["variables"], was["tpm"])
    assert before["machines"]["web1"]["variables"] is not None
    assert before["machines"]["web1"]["tpm"] is not None


def test_they_start_and_are_backed_up_again(hosts: Hosts) -> None:
    _, after = hosts
    assert after["runs"] == {"web1": True, "database": True}
    (point,) = after["next"]["points"]
    assert {disk["new_bytes"] for disk in point["disks"]} == {0}


def test_only_url_and_password_are_needed_to_see_what_there_is(hosts: Hosts) -> None:
    before, after = hosts
    assert [point["domain"] for point in after["points"]] == ["web1", "database"]
    assert {item["name"] for item in after["shown"]["attachments"]} >= {"domain.xml", "nvram.fd", "tpm.tar"}
    assert before["backup"]["code"] == 0


def test_a_dry_run_defines_nothing_and_a_second_restore_is_refused(hosts: Hosts) -> None:
    _, after = hosts
    assert "<name>database</name>" in after["looked"]
    assert after["before"] == ["web1"]
    assert (after["again"]["code"], after["again"]["error"]["name"]) == (2, "DomainExists")


def test_a_copy_with_uefi_and_tpm_starts_beside_its_original(hosts: Hosts) -> None:
    before, _ = hosts
    copy, original, was = before["copy"], before["original"], before["machines"]["web1"]
    assert copy.get("active"), copy
    assert before["original runs on"]
    assert original == was
    for name in ("uuid", "mac", "nvram"):
        assert copy[name] != original[name]
    assert copy["tpm"] is not None
    assert copy["mode"] & 0o777 == 0o711
    assert {disk["path"] for disk in copy["disks"].values()}.isdisjoint(
        disk["path"] for disk in original["disks"].values()
    )
