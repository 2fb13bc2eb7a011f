"""The secret that opens a repository, a password or a key file, from all sources."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import click

from puller.errors import UsageError
from puller.units import MIB

if TYPE_CHECKING:
    from puller.configuration.file import Place

CREDENTIAL = "puller-password"
"""Name of the systemd credential (LoadCredential=, LoadCredentialEncrypted=)."""

KEY_FILE_LIMIT = MIB
"""Most bytes of a key file: a device without end must not be read to its end."""

LUKS = "PULLER_LUKS_PASSPHRASE"
"""Variable with the passphrase of LUKS volumes in guests; with ``_FILE`` behind it, of a file with it."""

_LUKS_ADVICE = "Set the path of a readable file that holds the passphrase."
_ADVICE = "Set PULLER_PASSWORD or PULLER_PASSWORD_FILE, or run the command on a terminal to be asked."
_FILE_ADVICE = "Set the path of a readable file that holds the password or key."


@dataclass(frozen=True, slots=True)
class Secret:
    """A password, or the content of a key file, or neither if none was given; and its source."""

    password: str | None = field(default=None, repr=False)
    key_file: bytes | None = field(default=None, repr=False)
    source: str = ""

    @property
    def is_given(self) -> bool:
        """Whether a secret was given."""
        return self.password is not None or self.key_file is not None


def given_secret(key_file: str | None, environment: Mapping[str, str], place: Place | None) -> Secret:
    """Return the secret of the first source that has one.

    The sources are the named key file, the environment's password, the configuration's secret for this
    repository, and systemd's credential (for any repository). Raises UsageError if a source exists but holds
    no usable secret.
    """
    if key_file is not None:
        return _from_key_file(key_file)
    if "PULLER_PASSWORD" in environment:
        source = "PULLER_PASSWORD"
        return Secret(_checked(environment[source], source, _ADVICE), source=source)
    if "PULLER_PASSWORD_FILE" in environment:
        return _from_file(Path(environment["PULLER_PASSWORD_FILE"]), "PULLER_PASSWORD_FILE", _ADVICE)
    configured = Secret() if place is None else _configured(place)
    if configured.is_given:
        return configured
    folder = environment.get("CREDENTIALS_DIRECTORY")
    return _credential(Path(folder, CREDENTIAL)) if folder else Secret()


def other_secret(key_file: str | None, password_file: str | None, place: Place | None) -> Secret:
    """Return the secret of a second repository from a named file or its configuration. Raises UsageError."""
    if key_file is not None and password_file is not None:
        raise UsageError("cannot use both a password and a key file", advice="Give one of the two.")
    if key_file is not None:
        return _from_key_file(key_file)
    if password_file is not None:
        return _from_file(Path(password_file), f"the password file {password_file}", _FILE_ADVICE)
    return Secret() if place is None else _configured(place)


def _configured(place: Place) -> Secret:
    """Return the secret in the file that the configuration names for this repository."""
    if place.key_file is not None:
        return _from_key_file(place.key_file)
    if place.password_file is not None:
        return _from_file(
            Path(place.password_file), f"the password-file of repository {place.name}", _FILE_ADVICE
        )
    return Secret()


def new_secret(key_file: str | None, password_file: str | None) -> Secret:
    """Return the secret of a new key; without a file, ask for a password. Raises UsageError."""
    if key_file is not None:
        return _from_key_file(key_file)
    if password_file is not None:
        return _from_file(Path(password_file), "--new-password-file", _FILE_ADVICE)
    if not can_ask():
        raise UsageError(
            "the new key needs a password or a key file",
            advice="Pass --new-password-file or --new-key-file, or run the command on a terminal.",
        )
    return ask("New password", twice=True)


def luks_passphrases(files: Sequence[str], environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the passphrases of LUKS volumes in guests: of the environment, then of ``files``.

    Raises UsageError if one is given but cannot be read or is empty.
    """
    found = []
    if LUKS in environment:
        found.append(_checked(environment[LUKS], LUKS, _LUKS_ADVICE))
    named = [(environment[f"{LUKS}_FILE"], f"{LUKS}_FILE")] if f"{LUKS}_FILE" in environment else []
    for path, source in [*named, *((path, "--luks-passphrase-file") for path in files)]:
        found.append(_read_password(Path(path), source, _LUKS_ADVICE))
    return tuple(found)


def can_ask() -> bool:
    """Return whether a user can answer on a terminal."""
    return sys.stdin is not None and sys.stdin.isatty()


def ask(question: str, twice: bool) -> Secret:
    """Ask for a password on the terminal, without showing it."""
    return Secret(click.prompt(question, hide_input=True, confirmation_prompt=twice, err=True))


def _key_file(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            content = file.read(KEY_FILE_LIMIT + 1)
    except OSError as error:
        raise UsageError(f"cannot read the key file {path}: {error.strerror}", advice=_FILE_ADVICE) from error
    if not 0 < len(content) <= KEY_FILE_LIMIT:
        size = "is empty" if not content else "is longer than 1 MiB"
        raise UsageError(f"the key file {path} {size}", advice=_FILE_ADVICE)
    return content


def _from_key_file(path: str) -> Secret:
    return Secret(key_file=_key_file(path), source=f"the key file {path}")


def _from_file(path: Path, source: str, advice: str) -> Secret:
    return Secret(_read_password(path, source, advice), source=source)


def _credential(path: Path) -> Secret:
    """Return the credential, or none: a service may have credentials that are not for puller."""
    try:
        path.stat()
    except FileNotFoundError:
        return Secret()
    except OSError:
        pass  # reading it reports the error
    return _from_file(path, f"the credential {CREDENTIAL}", _ADVICE)


def _read_password(path: Path, source: str, advice: str) -> str:
    """Return the file's content without the newline that editors and echo add at its end."""
    try:
        content = path.read_bytes().removesuffix(b"\n")
    except OSError as error:
        named = source if source.endswith(f" {path}") else f"{source} from {path}"
        raise UsageError(f"cannot read {named}: {error.strerror}", advice=advice) from error
    named = source if source.endswith(f" {path}") else f"{source} ({path})"
    return _checked(content.decode(errors="surrogateescape"), named, advice)


def _checked(password: str, source: str, advice: str) -> str:
    if not password:
        raise UsageError(f"the password from {source} is empty", advice=advice)
    try:
        password.encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"the password from {source} is not UTF-8", advice="Choose a password of UTF-8 text."
        ) from error
    return password
