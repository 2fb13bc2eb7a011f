"""The throwaway guest itself: what the demo and the end-to-end tests take for granted about it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from puller.units import KIB
from tests.lab.guest import BARE_DISK, Guest, running_guest

PATIENCE = 90.0
TURNS = 16
"""Regions of vdb that the guest writes in turn, 256 KiB apart; see tests/guest/init."""


@pytest.fixture(scope="module")
def stopped_guest(libvirt_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Guest:
    """A guest that wrote some generations and then lost power."""
    with running_guest(libvirt_uri, "guest", tmp_path_factory.mktemp("guest")) as guest:
        guest.console.wait_ready(PATIENCE)
        guest.console.wait_generation(1, PATIENCE)
        guest.console.wait_generation(6, PATIENCE)  # beyond the fourth, which ends with an fstrim
    return guest


def test_the_file_system_holds_what_the_guest_wrote_and_is_sound(stopped_guest: Guest) -> None:
    image = as_raw(stopped_guest.disks["vda"])
    # -p repairs only what replaying the journal and recounting can, as every boot after a power cut does.
    checked = run("/sbin/e2fsck", "-f", "-p", str(image))
    assert checked.returncode in (0, 1), checked.stdout
    newest = stopped_guest.console.generation()
    text = run("/sbin/debugfs", "-R", f"cat /files/{newest % 8}/text", str(image)).stdout
    assert text.startswith(f"line of generation {newest}\n")


def test_the_bare_disk_has_noise_then_holes_where_noise_was_and_a_partial_last_chunk(
    stopped_guest: Guest,
) -> None:
    content = as_raw(stopped_guest.disks["vdb"]).read_bytes()
    newest = stopped_guest.console.generation()
    assert len(content) == BARE_DISK
    assert BARE_DISK % (64 * KIB) != 0
    assert region(content, newest).count(0) < 1 * KIB
    assert not any(region(content, newest - 2)), "discarded two turns after it was written"
    assert any(content[-512:])


def region(content: bytes, generation: int) -> bytes:
    """What ``generation`` wrote to vdb."""
    offset = generation % TURNS * 256 * KIB
    return content[offset : offset + 128 * KIB]


def as_raw(image: Path) -> Path:
    raw = image.with_suffix(".raw")
    run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(image), str(raw)).check_returncode()
    return raw


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)
