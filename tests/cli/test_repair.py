"""``repair index``: a sound repository, a lost index, a damaged pack."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

import puller
from puller.units import CHUNK
from tests.cli.conftest import CommandLine
from tests.lab.archive import data_packs, make_point

pytestmark = pytest.mark.usefixtures("repository_in_the_environment")

CONTENT = os.urandom(3 * CHUNK)


def test_a_lost_index_is_rebuilt(cli: CommandLine, repository: puller.Repository, folder: Path) -> None:
    make_point(repository, {"vda": CONTENT})
    shutil.rmtree(folder / "index")
    packs = sum(path.is_file() for room in ("packs", "maps") for path in (folder / room).rglob("*"))
    assert cli("repair", "index", "--json").document == {"packs": packs, "indexes_removed": 0, "damaged": []}
    assert cli("repair", "index").out == f"packs in the index: {packs}, old indexes removed: 1\n"
    assert make_point(repository, {"vda": CONTENT}, "other").disks[0].new_bytes == 0


def test_a_damaged_pack_is_named(cli: CommandLine, repository: puller.Repository, folder: Path) -> None:
    make_point(repository, {"vda": CONTENT})
    pack = max(data_packs(folder), key=lambda path: path.stat().st_size)
    pack.write_bytes(pack.read_bytes()[:-1])
    answer = cli("repair", "index", "--json")
    assert (answer.error["code"], answer.error["name"]) == (13, "DamagedData")
    assert answer.document["damaged"] == [str(pack.relative_to(folder))]
    text = cli("repair", "index")
    assert text.code == 13
    assert f"damaged pack, left out: {pack.relative_to(folder)}\n" in text.out


def test_it_wants_to_know_what(cli: CommandLine) -> None:
    assert cli("repair").code == 2
    assert "index" in cli("repair", "--help").out
