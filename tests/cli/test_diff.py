"""``puller diff`` of two points."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

import puller
from puller.units import CHUNK
from tests.cli.conftest import CommandLine
from tests.lab.archive import make_point


def test_what_differs_between_two_points(
    cli: CommandLine, repository: puller.Repository, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PULLER_REPOSITORY", str(folder))
    disk = bytearray(b"\x07" * 5 * CHUNK + b"x")
    first = make_point(repository, {"vda": bytes(disk), "vdb": b"same"})
    disk[CHUNK : CHUNK + 5] = b"other"
    disk[-1:] = b"y"
    later = make_point(
        repository, {"vda": bytes(disk), "vdb": b"same"}, moment=first.time + timedelta(hours=1)
    )
    document = cli("diff", first.point, later.point, "--json").document
    assert document == {
        "from": first.point,
        "to": later.point,
        "disks": [
            {"disk": "vda", "changed_bytes": CHUNK + 1, "ranges": [[CHUNK, CHUNK], [5 * CHUNK, 1]]},
            {"disk": "vdb", "changed_bytes": 0, "ranges": []},
        ],
    }
    lines = cli("diff", first.point, later.point, "--disk", "vda").out.splitlines()
    assert lines[0].split() == ["DISK", "DIFFERS", "RANGES", "FROM", "-", "TO"]
    assert lines[1].split()[0] == "vda"
    error = cli("diff", first.point, later.point, "--disk", "vdz", "--json").error
    assert (error["code"], error["name"]) == (16, "NoSuchDisk")
