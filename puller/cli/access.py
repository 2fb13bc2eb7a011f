"""The way into a repository: its URL and its password, from where a user may put them."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from puller.cli.console import say
from puller.cli.options import Settings
from puller.errors import UsageError, WrongKey

if TYPE_CHECKING:
    from puller.repository.repository import Repository

CREDENTIAL = "puller-password"
"""Name of the systemd credential (LoadCredential=, LoadCredentialEncrypted=)."""

_ADVICE = "Set PULLER_PASSWORD or PULLER_PASSWORD_FILE, or run this on a terminal to be asked."


def repository_url(settings: Settings) -> str:
    """The repository's URL. Raises UsageError if none is given."""
    if not settings.repository:
        raise UsageError("no repository is given", advice="Name it with -r URL or PULLER_REPOSITORY.")
    return settings.repository


def given_password(environment: Mapping[str, str]) -> str | None:
    """The password that the environment gives, or None. Raises UsageError if it gives a useless one."""
    if "PULLER_PASSWORD" in environment:
        return _checked(environment["PULLER_PASSWORD"], "PULLER_PASSWORD")
    if "PULLER_PASSWORD_FILE" in environment:
        return _read(Path(environment["PULLER_PASSWORD_FILE"]), "PULLER_PASSWORD_FILE")
    if folder := environment.get("CREDENTIALS_DIRECTORY"):
        return _credential(Path(folder, CREDENTIAL))
    return None


def _credential(path: Path) -> str | None:
    """The credential, or None: a service may have credentials that are not for puller."""
    try:
        path.stat()
    except FileNotFoundError:
        return None
    except OSError:
        pass  # reading it tells what is wrong
    return _read(path, "the credential")


def _read(path: Path, source: str) -> str:
    """The file's content without the newline that editors and echo put at its end."""
    try:
        content = path.read_bytes().removesuffix(b"\n")
    except OSError as error:
        text = f"{source} is to be read from {path}, which fails: {error.strerror}"
        raise UsageError(text, advice=_ADVICE) from error
    return _checked(content.decode(errors="surrogateescape"), f"{source} ({path})")


def _checked(password: str, source: str) -> str:
    if not password:
        raise UsageError(f"{source} gives an empty password", advice=_ADVICE)
    try:
        password.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{source} is not UTF-8", advice="Choose a password of UTF-8 text.") from error
    return password


def _can_ask() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _ask(twice: bool) -> str:
    question = "Password for the new repository" if twice else "Password of the repository"
    answer: str = click.prompt(question, hide_input=True, confirmation_prompt=twice, err=True)
    return answer


def open_repository(settings: Settings) -> Repository:
    """Open the repository, asking for its password if it has one that nobody gave.

    Raises UsageError and what ``puller.open_repository`` raises.
    """
    url, password = repository_url(settings), given_password(os.environ)
    from puller.agent import api

    try:
        return api.open_repository(url, password=password)
    except WrongKey:
        if password is not None or not _can_ask():
            raise
    return api.open_repository(url, password=_ask(twice=False))


def create_repository(settings: Settings, encrypted: bool) -> Repository:
    """Make the repository. Raises UsageError and what ``puller.create_repository`` raises."""
    url, password = repository_url(settings), given_password(os.environ)
    if not encrypted and password is not None and settings.verbosity >= 0:
        say("puller: --no-encryption: the password that the environment gives is not used")
    chosen = (password or _new_password()) if encrypted else None
    from puller.agent import api

    return api.create_repository(url, password=chosen)


def _new_password() -> str:
    if not _can_ask():
        raise UsageError(
            "a new repository needs a password",
            advice="Set PULLER_PASSWORD or PULLER_PASSWORD_FILE, or pass --no-encryption.",
        )
    return _ask(twice=True)
