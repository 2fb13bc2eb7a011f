"""A newcomer who follows docs/quickstart.md has a backup that restores: quickstart_scene.py follows it."""

from __future__ import annotations

import json
import platform
import re
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest

from tests.docs.quickstart_scene import PAGE, commands
from tests.lab.daemon import in_own_namespace, is_root

pytestmark = pytest.mark.skipif(not is_root(), reason="a private libvirtd needs root")

PATIENCE = 400
_ANYTHING = "…"
_HOST = "kvm1"
"""The host of the page."""


@pytest.fixture(scope="module")
def followed() -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="puller-quickstart-") as folder:
        command = in_own_namespace("tests.docs.quickstart_scene", [folder])
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert done.returncode == 0, done.stderr
        yield json.loads(done.stdout)


def shown() -> list[str]:
    """What the page shows below each block of commands; empty where it shows nothing."""
    parts = re.split(r"^```sh\n.*?^```$", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)[1:]
    found = [re.match(r"\n+```text\n(.*?)^```$", part, re.MULTILINE | re.DOTALL) for part in parts]
    return [match[1] if match else "" for match in found]


def shape(text: str) -> str:
    """The text without what differs: ids, host, times, sizes, numbers, and the width of columns."""
    for pattern, word in (
        (r"\b[0-9a-f]{32}\b", "ID"),
        (r"\b\d{8}T\d{6}Z-[0-9a-f]{8}\b", "POINT"),
        (r"\b[A-Z][a-z]{2} \d\d \d\d:\d\d:\d\d \S+ puller\[\d+\]", "JOURNAL"),
        (rf"\b({re.escape(platform.node())}|{_HOST})\b", "NAME"),
        (r"\b\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\b", "TIME"),
        (r"\b\d+(\.\d+)? ([KMGT]i)?B\b", "SIZE"),
        (r"\b\d+(\.\d+)? (s|min|h|d)\b", "DURATION"),
        (r"\b\d+\b", "N"),
        (r"[ \t]+", " "),
        (r" \n", "\n"),
    ):
        text = re.sub(pattern, word, text)
    return text


def matches(printed: str, expected: str) -> bool:
    """A line of the page that is an ellipsis stands for any lines."""
    lines = shape(expected).splitlines(keepends=True)
    pattern = "".join("(.*\n)*" if line.strip() == _ANYTHING else re.escape(line) for line in lines)
    return re.fullmatch(pattern, shape(printed)) is not None


def test_every_command_succeeds_and_prints_what_the_page_shows(followed: dict[str, Any]) -> None:
    assert followed["code"] == 0, followed["errors"]
    blocks = commands(PAGE.read_text())
    assert len(followed["printed"]) == len(blocks)
    for block, printed, expected in zip(blocks, followed["printed"], shown(), strict=True):
        assert matches(printed, expected), f"{block}{printed}"


def test_the_backup_is_encrypted_and_restores(followed: dict[str, Any]) -> None:
    assert followed["compared"] == "Images are identical.\n"
    kinds = {key.split("/")[1] for key in followed["objects"]}
    assert kinds == {"repository.json", "keys", "packs", "maps", "index", "points", "verified"}


def test_secrets_are_readable_by_root_only(followed: dict[str, Any]) -> None:
    assert followed["secret_modes"] == ["0o600", "0o600"]


def test_it_takes_four_commands() -> None:
    """Up to the point where the timer runs and a first backup is there."""
    setting_up = PAGE.read_text().partition("\nThat is all.")[0]
    assert [len(block.splitlines()) for block in commands(setting_up)] == [1, 1, 1, 1]
    assert "enabled puller-backup@nightly.timer" in setting_up


def test_a_page_that_is_wrong_is_found() -> None:
    """The comparison itself."""
    assert matches("vda: 64.0 MiB read in 0.1 s\n", "vda: 20.0 GiB read in 61 s\n")
    assert matches("a\nb\nc 7\n", "a\n…\nc 8\n")
    assert not matches("a\nb\n", "a\n")
    assert not matches("warn  last-point\n", "ok  last-point\n")
