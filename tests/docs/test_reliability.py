"""Every row of the page on reliability names tests that make its fault, and they exist.

So do those of the format's table of limits and of the table of kinds of disks.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text()
FORMAT = (ROOT / "docs" / "format.md").read_text()
HOSTS = (ROOT / "docs" / "hosts.md").read_text()
NAMED = re.findall(r"`(tests/[\w/]+\.py)((?:::\w+)+)`", PAGE + FORMAT + HOSTS)


@pytest.mark.parametrize(("path", "names"), sorted(set(NAMED)))
def test_the_test_is_there(path: str, names: str) -> None:
    source = (ROOT / path).read_text()
    for name in names.split("::")[1:]:
        assert re.search(rf"^ *(?:def|class) {name}\b", source, re.MULTILINE), f"{path} has no {name}"


def test_every_fault_has_a_test() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| fault")]
    assert len(rows) > 50
    assert [row for row in rows if not re.search(r"`tests/[\w/]+\.py::\w+(?:::\w+)?` \|$", row)] == []


def test_every_limit_of_the_format_has_a_test() -> None:
    table = FORMAT.partition("\n## Limits\n")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 10
    assert [row for row in rows if not re.search(r"`tests/[\w/]+\.py::\w+` \|$", row)] == []


def test_every_kind_of_disk_has_a_test() -> None:
    table = HOSTS.partition("\n## Kinds of disks\n")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 15
    assert [row for row in rows if not re.search(r"`tests/[\w/]+\.py::\w+`", row)] == []
