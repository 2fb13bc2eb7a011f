"""``check``: sound repositories, damaged ones, and the value that may follow ``--read-data``."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import puller
from puller.cli.commands.check import spell_out
from puller.units import CHUNK
from tests.cli.conftest import CommandLine
from tests.lab.archive import data_packs, make_point

pytestmark = pytest.mark.usefixtures("repository_in_the_environment")

CONTENT = os.urandom(3 * CHUNK)
OTHER = os.urandom(CHUNK)


@pytest.fixture
def points(repository: puller.Repository) -> list[puller.Point]:
    return [
        make_point(repository, {"vda": CONTENT}, "web1"),
        make_point(repository, {"vda": OTHER}, "db1"),
    ]


def test_a_sound_repository(cli: CommandLine, points: list[puller.Point]) -> None:
    document = cli("check", "--json").document
    assert document.keys() == {
        *("points", "packs", "chunks_read", "errors"),
        *("packs_verified", "packs_left", "oldest_verified", "uncovered"),
    }
    assert (document["points"], document["chunks_read"], document["errors"]) == (2, 0, [])
    assert document["packs"] > 0
    assert "no errors" in cli("check").out


@pytest.mark.parametrize(
    ("arguments", "points_checked", "chunks"),
    [
        (["--read-data"], 2, 5),
        (["--read-data", "100"], 2, 5),
        (["--read-data=100"], 2, 5),
        (["--read-data", "99%"], 2, None),
        (["--read-data", "db1@latest"], 1, None),
        (["db1@latest", "--read-data"], 1, None),
        (["--read-data", "-q", "db1@latest"], 1, None),
    ],
)
def test_reading_data(
    cli: CommandLine,
    points: list[puller.Point],
    arguments: list[str],
    points_checked: int,
    chunks: int | None,
) -> None:
    document = cli("check", *arguments, "--json").document
    assert document["points"] == points_checked
    assert document["chunks_read"] > 0
    assert document["errors"] == []
    if chunks is not None:
        assert document["chunks_read"] == chunks


def _truncate(pack: Path, other: Path) -> None:
    pack.write_bytes(pack.read_bytes()[:-100])


def _swap(pack: Path, other: Path) -> None:
    pack.write_bytes(other.read_bytes())


def _flip(pack: Path, other: Path) -> None:
    content = pack.read_bytes()
    pack.write_bytes(bytes([content[0] ^ 1]) + content[1:])


def _remove(pack: Path, other: Path) -> None:
    pack.unlink()


@pytest.mark.parametrize("hurt", [_truncate, _swap, _flip, _remove])
def test_damage_is_located(
    cli: CommandLine, points: list[puller.Point], folder: Path, hurt: Callable[[Path, Path], None]
) -> None:
    packs = sorted(data_packs(folder), key=lambda path: path.stat().st_size)
    hurt(packs[-1], packs[0])
    answer = cli("check", "--read-data", "--json")
    assert (answer.error["code"], answer.error["name"]) == (13, "DamagedData")
    errors = answer.document["errors"]
    assert {(error["point"], error["domain"], error["disk"]) for error in errors} == {
        (points[0].point, "web1", "vda")
    }
    assert errors[0].keys() == {"point", "domain", "disk", "offset", "length", "message"}
    assert errors[0]["offset"] == 0
    assert sum(error["length"] for error in errors) == (CHUNK if hurt is _flip else 3 * CHUNK)
    assert packs[-1].name in errors[0]["message"]
    text = cli("check", "--read-data")
    assert text.code == 13
    pieces = "1 error" if len(errors) == 1 else f"{len(errors)} errors"
    assert f"found damage in 1 restore point ({pieces})" in text.err
    assert f"point {points[0].point}, domain web1, disk vda, bytes 0 to " in text.out
    assert cli("check", "--read-data", "db1@latest").code == 0


def test_a_flipped_bit_is_found_only_by_reading(
    cli: CommandLine, points: list[puller.Point], folder: Path
) -> None:
    _flip(data_packs(folder)[0], data_packs(folder)[0])
    assert cli("check").code == 0
    assert cli("check", "--read-data").code == 13


def test_a_damaged_record_does_not_hide_the_others(
    cli: CommandLine, points: list[puller.Point], folder: Path
) -> None:
    record = folder / "points" / points[0].uuid / points[0].point
    record.write_bytes(b"nonsense")
    document = cli("check", "--json").document
    assert document["points"] == 1
    (error,) = document["errors"]
    assert error["point"] == points[0].point
    assert error["disk"] is error["offset"] is error["length"] is None


@given(
    st.lists(st.sampled_from(["--read-data", "--", "50", "2026", "web1@latest", "-q", "7.5%"]), max_size=6)
)
def test_a_value_is_taken_only_if_it_is_a_number(words: list[str]) -> None:
    spelled = spell_out(words)
    end = words.index("--") if "--" in words else len(words)
    assert [word.removesuffix("=100") for word in spelled] == words
    for place, word in enumerate(words):
        follower = words[place + 1] if place + 1 < len(words) else ""
        bare = word == "--read-data" and follower not in ("50", "2026", "7.5%") and place < end
        assert (spelled[place] == "--read-data=100") == bare
