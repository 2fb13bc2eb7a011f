"""Mistakes in a configuration, each with its place and a remedy."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from puller.configuration.schema import Key, Table, keys
from puller.errors import UsageError

Path = tuple[str, ...]
"""The keys that lead to a value: ``("jobs", "nightly", "parallel")``."""

_LONGEST = 40
"""Most characters of a wrong value in a message: enough to find it."""

_REPLACED = {"limit-read": "pace"}
"""Keys of earlier builds, each with the one that replaces it: a similar word may mean something else."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """One mistake. ``line`` is set for an error in the syntax; else it is None, and ``key`` names the key."""

    file: str
    line: int | None
    key: str
    message: str
    advice: str

    @property
    def text(self) -> str:
        """The message, such as ``/etc/puller/puller.toml: invalid value for jobs.nightly.parallel: 99``."""
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.message}"


class ConfigurationError(UsageError):
    """The configuration cannot be used. ``mistakes`` holds all mistakes."""

    def __init__(self, mistakes: Iterable[Mistake]) -> None:
        self.mistakes = tuple(mistakes)
        first, more = self.mistakes[0], len(self.mistakes) - 1
        rest = f" (and {more} more; 'puller config check' lists all)" if more else ""
        super().__init__(f"{first.text}{rest}", advice=first.advice)


@dataclass
class Findings:
    """Collects the mistakes of one file."""

    file: str
    mistakes: list[Mistake] = field(default_factory=list)

    def add(self, path: Path, message: str, advice: str) -> None:
        """Add a mistake at ``path``."""
        self.mistakes.append(Mistake(self.file, None, dotted(path), message, advice))

    def table(self, path: Path, value: Any, table: type[Table]) -> dict[str, Any]:
        """Return the valid keys of ``value``, decoded. Add a mistake for each other key."""
        if not isinstance(value, dict):
            self.add(
                path, f"{dotted(path)} must be a table", f"Write [{dotted(path)}] and its keys below it."
            )
            return {}
        known, right = keys(table), {}
        for name, content in value.items():
            if name not in known:
                self._unknown((*path, name), known)
            elif self._fits((*path, name), content, *known[name]):
                right[name] = content
        for info in msgspec.structs.fields(table):
            if info.required and info.encode_name not in value:
                missing = (*path, info.encode_name)
                key = known[info.encode_name][1]
                self.add(missing, f"missing key {dotted(missing)}", remedy(missing[-1], key))
        return right

    def _unknown(self, path: Path, known: Collection[str]) -> None:
        advice = meant(path[-1], known) or f"Use one of these keys: {', '.join(known)}."
        if (new := _REPLACED.get(path[-1])) in known:
            advice = f"Write '{new}' instead, which replaces '{path[-1]}'."
        self.add(path, f"unknown key {dotted(path)}", advice)

    def _fits(self, path: Path, content: Any, kind: Any, key: Key) -> bool:
        nested = _nested(kind)
        if nested is not None:
            before = len(self.mistakes)
            self.table(path, content, nested)
            return len(self.mistakes) == before
        try:
            msgspec.convert(content, kind)
            if key.read is not None:
                key.read(content)
        except msgspec.ValidationError:
            self.add(path, f"invalid value for {dotted(path)}: {_shown(content)}", remedy(path[-1], key))
        except ValueError as error:
            self.add(path, f"{dotted(path)}: {error}", remedy(path[-1], key))
        else:
            return True
        return False


def _nested(kind: Any) -> type[Table] | None:
    """Return the table type of a key, if its type is a table."""
    for part in (kind, *getattr(kind, "__args__", ())):
        if isinstance(part, type) and issubclass(part, Table):
            return part
        if part is not kind and (inner := _nested(part)) is not None:
            return inner
    return None


def dotted(path: Path) -> str:
    """Return a path as text, such as ``jobs.nightly.parallel``."""
    return ".".join(path)


def remedy(name: str, key: Key) -> str:
    """Return advice on what to write for the key ``name``."""
    example = f", for example: {name} = {key.example}" if key.example else ""
    return f"Set '{name}' to {key.meaning}{example}"


def meant(word: str, known: Iterable[str]) -> str:
    """Return advice that suggests a similar word; empty if there is none."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"Check the spelling: did you mean '{close[0]}'?" if close else ""


def _shown(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
