"""The first configuration of a host, as files: what ``puller config init`` writes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from puller.configuration.file import decode
from puller.errors import UsageError
from puller.store.directory.files import write_file

CREDENTIALS = Path("/etc/credstore")
"""Directory in which systemd looks for the credentials of services."""

JOB = "nightly"

_PASSWORD, _ACCESS_KEY = "puller-password", "puller-aws-credentials"
_CONFIGURATION = """\
# Written by 'puller config init'. 'puller config example' explains every key.

[repositories.main]
{repository}

[defaults]
repository = "main"

[jobs.{job}]
domains = {domains}
then = ["prune", "check"]
check = 5.0
keep = {{ daily = 7, weekly = 4, monthly = 6 }}
"""


@dataclass(frozen=True, slots=True)
class AccessKey:
    """An S3 access key, with the server that it is for; without an endpoint, that is AWS."""

    key_id: str
    secret: str = field(repr=False)
    endpoint: str | None = None
    region: str | None = None

    def text(self) -> str:
        """Return a file in the form of ``~/.aws/credentials``."""
        lines = {
            "aws_access_key_id": self.key_id,
            "aws_secret_access_key": self.secret,
            "endpoint_url": self.endpoint,
            "region": self.region,
        }
        return "[default]\n" + "".join(f"{name} = {value}\n" for name, value in lines.items() if value)


@dataclass(frozen=True, slots=True)
class Answers:
    """What the user has answered: secrets to write, or the paths of files that hold them already."""

    repository: str
    domains: Sequence[str]
    password: str | None = field(default=None, repr=False)
    password_file: str | None = None
    key_file: str | None = None
    access_key: AccessKey | None = None
    credentials_file: str | None = None


def files(answers: Answers, configuration: Path, credentials: Path) -> dict[Path, str]:
    """Return what to write into which file: the configuration, and secrets in a directory of credentials.

    Raises ConfigurationError, UsageError.
    """
    found = {}
    named = {
        "url": answers.repository,
        "password-file": answers.password_file,
        "key-file": answers.key_file,
        "credentials-file": answers.credentials_file,
    }
    if answers.password is not None:
        found[credentials / _PASSWORD] = f"{answers.password}\n"
        named["password-file"] = str(credentials / _PASSWORD)
    if answers.access_key is not None:
        found[credentials / _ACCESS_KEY] = answers.access_key.text()
        named["credentials-file"] = str(credentials / _ACCESS_KEY)
    repository = "\n".join(f"{key} = {_toml(value)}" for key, value in named.items() if value is not None)
    text = _CONFIGURATION.format(repository=repository, job=JOB, domains=_toml(list(answers.domains)))
    _require_utf8(text, configuration)
    decode(text, configuration)
    return found | {configuration: text}


def _require_utf8(text: str, configuration: Path) -> None:
    """Names and paths in the answers can be of any bytes, but a configuration is UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"cannot write {configuration}: an answer is not UTF-8",
            advice="Use UTF-8 for the repository, the domains and the paths of files.",
        ) from error


def refuse_existing(paths: Iterable[Path]) -> None:
    """Raise UsageError if one of the files exists."""
    if existing := [str(path) for path in paths if os.path.lexists(path)]:
        raise UsageError(
            f"cannot write {existing[0]}: it exists already",
            advice=f"Edit what is there, or move {' and '.join(existing)} away and run the command again.",
        )


def write(content: dict[Path, str]) -> None:
    """Create the files, readable for their owner only: all of them, or none. Raises UsageError."""
    refuse_existing(content)
    written: list[Path] = []
    try:
        for path, text in content.items():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _create(path, text)
            written.append(path)
    except BaseException as error:
        for begun in written:
            with suppress(OSError):
                begun.unlink()
        if not isinstance(error, OSError):
            raise
        raise UsageError(
            f"cannot write {path}: {error.strerror}",
            advice="Run the command as root, or name other places with --config and --credentials-dir.",
        ) from error


def _create(path: Path, text: str) -> None:
    """Create the file with the whole text, or leave what another process has created there meanwhile."""
    try:
        write_file(path, text.encode(), lambda: None)
    except FileExistsError:
        raise
    except BaseException:
        with suppress(OSError):
            path.unlink()
        raise


def _toml(value: str | list[str]) -> str:
    """A JSON string without escaped surrogates is one of TOML, too."""
    return json.dumps(value, ensure_ascii=False)
