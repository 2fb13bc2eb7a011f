"""On which line each key of a TOML document stands.

``tomllib`` gives values without places. The text has passed it already, so this scan need only know
strings, comments and brackets to find keys; it never judges.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator

Path = tuple[str, ...]
"""The keys that lead to a value: ``("jobs", "nightly", "parallel")``."""

# https://toml.io/en/v1.0.0: the four kinds of string, comments, and what gives the text its shape.
_TOKEN = re.compile(
    r'"""(?:\\[\s\S]|[^\\])*?"{3,5}(?!")'
    r"|'''[\s\S]*?'{3,5}(?!')"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'"
    r"|\#[^\n]*"
    r"|[\[\]{}=,.\n]"
    r"|[^\s\[\]{}=,.\#\"']+"
)


def key_lines(text: str) -> dict[Path, int]:
    """The line, from 1, where each key is first named. ``text`` is valid TOML."""
    scan = _Scan()
    for token, line in _tokens(text):
        scan.take(token, line)
    return scan.lines


def _tokens(text: str) -> Iterator[tuple[str, int]]:
    line, end = 1, 0
    for match in _TOKEN.finditer(text):
        line += text.count("\n", end, match.start())
        end = match.start()
        if not match[0].startswith("#"):
            yield match[0], line


class _Scan:
    """Takes tokens in order. ``_nest`` holds the open brackets of a value, each with the table it is in."""

    def __init__(self) -> None:
        self.lines: dict[Path, int] = {}
        self._table: Path = ()
        self._words: list[str] = []
        self._in_value = False
        self._nest: list[tuple[str, Path]] = []
        self._key: Path = ()

    def take(self, token: str, line: int) -> None:
        """Go on by one token."""
        if self._in_value:
            self._take_value(token)
        elif token in "[]\n":
            self._take_edge(token, line)
        elif token == "=":
            self._key = (*self._base, *self._words)
            self._note(self._key, line)
            self._in_value = True
        elif token == "}":
            self._close()
        elif token not in ".,":
            self._words.append(_plain(token))

    @property
    def _base(self) -> Path:
        return self._nest[-1][1] if self._nest else self._table

    def _take_edge(self, token: str, line: int) -> None:
        """A header's bracket, or the end of a line between statements."""
        if token == "]" and self._words:
            self._table = tuple(self._words)
            self._note(self._table, line)
        if token != "[":
            self._words = []

    def _take_value(self, token: str) -> None:
        if token in "[{":
            self._nest.append((token, self._key))
        if token in "]}":
            self._close()
        elif token == "{" or self._ends_value(token):
            self._begin_key()

    def _ends_value(self, token: str) -> bool:
        """In an inline table a comma does, elsewhere the end of the line; in an array nothing."""
        if not self._nest:
            return token == "\n"
        return token == "," and self._nest[-1][0] == "{"

    def _begin_key(self) -> None:
        self._in_value, self._words = False, []

    def _close(self) -> None:
        """Leave a bracket; what follows belongs to the value that it stood in."""
        _, self._key = self._nest.pop()
        self._in_value, self._words = True, []

    def _note(self, path: Path, line: int) -> None:
        for length in range(1, len(path) + 1):
            self.lines.setdefault(path[:length], line)


def _plain(word: str) -> str:
    """A key without its quotes and escapes."""
    return next(iter(tomllib.loads(f"{word} = 0"))) if word[0] in "\"'" else word
