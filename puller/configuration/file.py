"""The configuration file: read it, and check what the types of its keys do not cover."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import msgspec

from puller.configuration.alarms import DEFAULTS as DEFAULT_ALARMS
from puller.configuration.alarms import Thresholds, thresholds
from puller.configuration.drills import DrillSettings, evidences
from puller.configuration.job import Job
from puller.configuration.mistakes import ConfigurationError, Findings, Mistake, dotted, meant
from puller.configuration.quantities import budget, duration
from puller.configuration.schema import (
    AlarmTable,
    Defaults,
    Document,
    JobTable,
    Name,
    ProveTable,
    RepositoryTable,
    keys,
)
from puller.errors import UsageError
from puller.store.location import FolderLocation, parse
from puller.store.options import DEFAULTS, StoreOptions

DEFAULT_PATH = Path("/etc/puller/puller.toml")

_NAME_ADVICE = "Use at most 64 letters, digits, '_', '.' and '-', and begin with a letter, a digit or '_'."
_PATHS = (
    *(
        "key-file",
        "password-file",
        "ca-bundle",
        "credentials-file",
        "metrics-file",
        "scratch-dir",
        "staging-dir",
        "nbd-tls",
    ),
    *("directory", "smtp-password-file", "report"),
)
_RESERVED = {"job": "name", "interval": "interval"}
"""Tags that a job writes itself, and what they say."""
_OPTIONS = tuple(option.name.replace("_", "-") for option in fields(StoreOptions))
_PLACE = re.compile(r" \(at (?:line (?P<line>\d+), column \d+|end of document)\)$")
_TWICE = re.compile(r"Cannot declare \((?P<table>.*?),?\) twice")


@dataclass(frozen=True, slots=True)
class Place:
    """A repository: its name in the file, its URL, the file with the secret that opens it, how many bytes of
    its index this host keeps, and the options of its store.
    """

    name: str
    url: str
    key_file: str | None = None
    password_file: str | None = None
    index_budget: int | None = None
    options: StoreOptions = DEFAULTS


@dataclass(frozen=True, slots=True)
class Configuration:
    """Content of the file. ``file`` is None if there is none, or it ``is_withheld``: this user may not read
    it.
    """

    file: str | None = None
    repositories: Mapping[str, Place] = field(default_factory=dict)
    defaults: Defaults = field(default_factory=Defaults)
    jobs: Mapping[str, Job] = field(default_factory=dict)
    prove: DrillSettings = field(default_factory=DrillSettings)
    alarms: Thresholds = DEFAULT_ALARMS
    is_withheld: bool = False

    @property
    def repository(self) -> str | None:
        """Return the name or URL of the default repository; if there is only one, it is the default."""
        if self.defaults.repository is None and len(self.repositories) == 1:
            return next(iter(self.repositories))
        return self.defaults.repository

    def place(self, word: str) -> Place:
        """Return the repository with this name or URL; any other ``word`` is taken as a URL."""
        if word in self.repositories:
            return self.repositories[word]
        try:
            url = parse(word).url
        except UsageError:
            return Place("", word)  # the error is reported when the repository is opened
        by_url = (place for place in self.repositories.values() if place.url == url)
        return next(by_url, Place("", word))

    def job(self, name: str) -> Job:
        """Return the job of this name. Raises UsageError."""
        if name in self.jobs:
            return self.jobs[name]
        if self.file is None:
            raise UsageError(
                f"cannot find job {name}: there is no configuration file",
                advice=f"Create {DEFAULT_PATH}, or name another file with --config or PULLER_CONFIG.",
            )
        listed = f"Name one of its jobs: {', '.join(self.jobs)}." if self.jobs else "Add a table [jobs.NAME]."
        raise UsageError(f"cannot find job {name} in {self.file}", advice=meant(name, self.jobs) or listed)


def load(named: str | None) -> Configuration:
    """Read the ``named`` file; without one, the file at ``DEFAULT_PATH`` if it can be read.

    Raises ConfigurationError with all mistakes, UsageError if a named file cannot be read.
    """
    path = DEFAULT_PATH if named is None else Path(named)
    try:
        text = path.read_bytes().decode()
    except OSError as error:
        if named is None:
            return Configuration(is_withheld=isinstance(error, PermissionError))  # else it does not exist
        raise UsageError(
            f"cannot read the configuration {path}: {error.strerror}",
            advice="Name a readable file with --config or PULLER_CONFIG.",
        ) from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise _unreadable(path, line, "the file is not UTF-8", "Save the file as UTF-8.") from error
    return decode(text, path)


def decode(text: str, path: Path) -> Configuration:
    """Read the text of a file. ``path`` is for messages. Raises ConfigurationError."""
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        match = _PLACE.search(str(error))
        line = int(match["line"]) if match and match["line"] else text.count("\n") + 1
        what = _PLACE.sub("", str(error))
        if again := _TWICE.fullmatch(what):
            table = again["table"].replace("'", "").replace(", ", ".")
            advice = "Put its keys below the first one: a table stands only once in a file."
            raise _unreadable(path, line, f"the table [{table}] stands here again", advice) from error
        advice = 'Correct the syntax: [table], key = "text", key = 1, key = ["a", "b"], # comment.'
        raise _unreadable(path, line, f"not valid TOML: {what[:1].lower()}{what[1:]}", advice) from error
    except RecursionError as error:
        raise _unreadable(path, None, "nested too deep", "Remove nested values that no key needs.") from error
    except ValueError as error:  # from int(), which takes at most 4300 digits
        text, advice = (
            "a number has too many digits",
            "Write a shorter number: no key needs that many digits.",
        )
        raise _unreadable(path, None, text, advice) from error
    findings = Findings(str(path))
    configuration = _Reading(findings).read(content)
    if findings.mistakes:
        raise ConfigurationError(findings.mistakes)
    return configuration


def _unreadable(path: Path, line: int | None, what: str, advice: str) -> ConfigurationError:
    return ConfigurationError([Mistake(str(path), line, "", what, advice)])


class _Reading:
    """Turns tables into values. After a mistake it continues, to find all mistakes."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings

    def read(self, content: dict[str, Any]) -> Configuration:
        """Read the whole document."""
        findings = self._findings
        findings.table((), {name: {} for name in content}, Document)
        places = {name: self._place(name, table) for name, table in self._named(content, "repositories")}
        self._defaults = findings.table(("defaults",), content.get("defaults", {}), Defaults)
        self._check_paths(("defaults",), self._defaults)
        self._check_paths(("defaults", "notify"), self._defaults.get("notify", {}))
        self._check_repository(("defaults",), self._defaults, places)
        jobs = {name: self._job(name, table, places) for name, table in self._named(content, "jobs")}
        defaults = msgspec.convert(self._defaults, Defaults)
        found = {name: job for name, job in jobs.items() if job}
        drills = self._drills(content.get("prove", {}))
        return Configuration(
            findings.file, places, defaults, found, drills, self._alarms(content.get("alarms", {}))
        )

    def _alarms(self, content: Any) -> Thresholds:
        return thresholds(self._findings.table(("alarms",), content, AlarmTable))

    def _drills(self, content: Any) -> DrillSettings:
        right = self._findings.table(("prove",), content, ProveTable)
        self._check_paths(("prove",), right)
        read: dict[str, Callable[[Any], Any]] = {
            "evidence": evidences,
            "timeout": duration,
            "memory": budget,
            "directory": Path,
        }
        return DrillSettings(**{key: read.get(key, _same)(value) for key, value in right.items()})

    def _named(self, content: dict[str, Any], kind: str) -> list[tuple[str, Any]]:
        tables = content.get(kind, {})
        if not isinstance(tables, dict):
            self._findings.table((kind,), tables, Document)
            return []
        right = []
        for name, table in tables.items():
            try:
                right.append((msgspec.convert(name, Name), table))
            except msgspec.ValidationError:
                self._findings.add((kind, name), f"invalid name {kind}.{name}", _NAME_ADVICE)
        return right

    def _place(self, name: str, content: Any) -> Place:
        path = ("repositories", name)
        right = self._findings.table(path, content, RepositoryTable)
        self._check_paths(path, right)
        if {"key-file", "password-file"} <= right.keys():
            text = f"{dotted(path)}.password-file and key-file exclude each other"
            self._findings.add((*path, "password-file"), text, "Remove one of the two.")
        try:
            url = parse(right["url"]).url if "url" in right else ""
        except UsageError as error:
            self._findings.add((*path, "url"), f"{dotted(path)}.url: {error.message}", error.advice)
            url = ""
        kept = budget(right["index-budget"]) if "index-budget" in right else None
        options = self._options(path, right, url)
        return Place(name, url, right.get("key-file"), right.get("password-file"), kept, options)

    def _options(self, path: tuple[str, ...], right: Mapping[str, Any], url: str) -> StoreOptions:
        given = {key: right[key] for key in _OPTIONS if key in right}
        if url and isinstance(parse(url), FolderLocation):
            for key in sorted(given.keys() - {"connections"}):
                text = f"{dotted((*path, key))} has no effect, because the repository is a directory"
                self._findings.add((*path, key), text, "Remove the key, or set the url to an S3 URL.")
            return StoreOptions(connections=given.get("connections"))
        if "kms-key" in given and given.get("sse") != "aws:kms":
            text = f'{dotted(path)}.kms-key has no effect without sse = "aws:kms"'
            self._findings.add((*path, "kms-key"), text, f'Add to [{dotted(path)}]: sse = "aws:kms"')
            return DEFAULTS
        return StoreOptions(**{key.replace("-", "_"): value for key, value in given.items()})

    def _check_paths(self, path: tuple[str, ...], content: Mapping[str, Any]) -> None:
        """Paths must be absolute, because a service starts in another directory than its user's shell."""
        for name in _PATHS:
            if name in content and not Path(content[name]).is_absolute():
                text = f"{dotted((*path, name))} is not an absolute path: {content[name]}"
                self._findings.add((*path, name), text, "Write the whole path, beginning with a slash.")

    def _check_repository(
        self, path: tuple[str, ...], content: Mapping[str, Any], places: Mapping[str, Place]
    ) -> None:
        for key in ("repository", "copy-to"):
            word = content.get(key)
            if word is None or word in places:
                continue
            try:
                parse(word)
            except UsageError:
                names = ", ".join(places) or "none"
                advice = meant(word, places) or f"Write a URL, or a name in [repositories] (now: {names})."
                text = f"invalid value for {dotted(path)}.{key}: there is no [repositories.{word}]"
                self._findings.add((*path, key), text, advice)

    def _job(self, name: str, content: Any, places: Mapping[str, Place]) -> Job | None:
        path = ("jobs", name)
        before = len(self._findings.mistakes)
        own = self._findings.table(path, content, JobTable)
        self._check_paths(path, own)
        self._check_paths((*path, "notify"), own.get("notify", {}))
        self._check_repository(path, own, places)
        inherited = {key: value for key, value in self._defaults.items() if key in keys(JobTable)}
        merged = inherited | own
        self._check_whole(path, merged)
        if len(self._findings.mistakes) > before:
            return None
        return _made(name, msgspec.convert(merged, JobTable))

    def _check_whole(self, path: tuple[str, ...], merged: Mapping[str, Any]) -> None:
        name = dotted(path)
        wrong = (
            f"{name}.keep",
            "defaults.keep",
        )  # a wrong rule is reported already, and is not a missing one
        reported = any(mistake.key.startswith(wrong) for mistake in self._findings.mistakes)
        if "prune" in merged.get("then", ()) and not merged.get("keep") and not reported:
            text = f"{name}.then includes prune, but no keep rule is set"
            advice = f"Add a table [{name}.keep] with a rule, for example: daily = 7"
            self._findings.add((*path, "then"), text, advice)
        if "copy" in merged.get("then", ()) and not merged.get("copy-to"):
            text = f"{name}.then includes copy, but copy-to is not set"
            advice = f"Set {name}.copy-to to the repository to copy to, a URL or a name in [repositories]."
            self._findings.add((*path, "then"), text, advice)
        if "report" in merged.get("then", ()) and not merged.get("report"):
            text = f"{name}.then includes report, but report is not set"
            advice = f"Set {name}.report to the absolute path of the HTML file to write."
            self._findings.add((*path, "then"), text, advice)
        both = set(merged.get("disks", ())) & set(merged.get("exclude-disks", ()))
        if both:
            text = f"{name}.exclude-disks and disks both name {', '.join(sorted(both))}"
            self._findings.add((*path, "exclude-disks"), text, "Name each disk in only one of the two lists.")
        for tag, meaning in _RESERVED.items():
            if tag in merged.get("tags", {}):
                text = f"{name}.tags.{tag} is reserved for the {meaning} of the job"
                self._findings.add((*path, "tags", tag), text, "Choose another name for the tag.")


def _same(value: Any) -> Any:
    return value


def _made(name: str, table: JobTable) -> Job:
    """Make the job: texts read, lists frozen, missing keys left to the job's own defaults."""
    described = keys(JobTable)
    content: dict[str, Any] = {"name": name}
    for info in msgspec.structs.fields(JobTable):
        value: Any = getattr(table, info.name)
        if value is not None:
            read = described[info.encode_name][1].read
            content[info.name] = read(value) if read else tuple(value) if isinstance(value, list) else value
    return Job(**content)
