"""Where keys stand: the scan finds every key that tomllib finds, on the right line."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puller.configuration.lines import Path, key_lines

TEXT = '''\
# a = 1
a = 1.5
"x.y".z = "a # b" # = c
[t] # [no]
m = """
k = 1
\\""" ] }
"""
n = \'\'\'
[l]\'\'\'
arr = [
  "a", # ]
  {q = 1, r.s = [2,
 3]}, ]
in = {a = {b = "}", f = 1.5, g = 2}, c = 'd'}
e = []
[ jobs . "web 1" . keep ]
within = 2026-11-23 05:00:00
[[aot]]
n = 1
'''


def test_every_kind_of_key() -> None:
    found = key_lines(TEXT)
    assert paths(tomllib.loads(TEXT)) <= found.keys()
    lines = {".".join(path): line for path, line in found.items()}
    assert lines["a"] == 2
    assert lines["x.y.z"] == 3
    assert (lines["t"], lines["t.m"], lines["t.n"], lines["t.arr"]) == (4, 5, 9, 11)
    assert (lines["t.arr.q"], lines["t.arr.r.s"]) == (13, 13)
    assert (lines["t.in.a.b"], lines["t.in.c"], lines["t.e"]) == (15, 15, 16)
    assert (lines["jobs.web 1.keep"], lines["jobs.web 1.keep.within"]) == (17, 18)
    assert {"t.in.a.f", "t.in.a.g"} <= lines.keys()
    assert (lines["aot"], lines["aot.n"]) == (19, 20)
    assert "k" not in lines
    assert "t.k" not in lines


def paths(value: Any, above: Path = ()) -> set[Path]:
    """The path of every key, arrays left out of it."""
    if isinstance(value, dict):
        mine = {(*above, name) for name in value}
        return mine.union(*(paths(inner, (*above, name)) for name, inner in value.items()))
    if isinstance(value, list):
        return set().union(*(paths(inner, above) for inner in value))
    return set()


_KEYS = st.one_of(
    st.from_regex(r"[A-Za-z0-9_-]{1,5}", fullmatch=True), st.sampled_from(['"a.b"', "'c d'", '"="'])
)
_LEAVES = st.one_of(
    st.integers(-9, 9).map(str),
    st.sampled_from(['"x = 1"', "'[y]'", '"""\nz = 1\n"""', "'''{'''", "true", "1.5", '"\\"#"', "[ ]"]),
)


def _inline(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    tables = st.dictionaries(_KEYS, inner, max_size=3).map(
        lambda table: "{" + ", ".join(f"{key} = {value}" for key, value in table.items()) + "}"
    )
    return tables | st.lists(inner, max_size=3).map(lambda items: "[\n" + " , # ]\n".join(items) + "\n]")


@settings(deadline=None)  # the first example pays for imports
@given(st.lists(st.tuples(st.booleans(), _KEYS, st.recursive(_LEAVES, _inline, max_leaves=5)), max_size=8))
def test_whatever_tomllib_reads(statements: list[tuple[bool, str, str]]) -> None:
    text = "".join(f"[{key}]\n" if header else f"{key} = {value} # c\n" for header, key, value in statements)
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    found = key_lines(text)
    assert paths(content) <= found.keys()
    rows = text.splitlines()
    for path, line in found.items():
        assert path[-1] in rows[line - 1]


@pytest.mark.parametrize("text", ["", "\n\n", "# only\n", "a=1"])
def test_little_text(text: str) -> None:
    assert list(key_lines(text)) == ([("a",)] if text == "a=1" else [])
