"""Access to a repository: its URL and the secret that opens it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from puller.cancelling import CancelScope
from puller.cli.input.secret import Secret, ask, can_ask, given_secret, other_secret
from puller.cli.libraries import loading
from puller.cli.output.settings import Settings
from puller.cli.output.streams.console import ERROR, say
from puller.errors import NotEncrypted, UsageError, WrongKey

if TYPE_CHECKING:
    from datetime import timedelta

    from puller.api import LockMode
    from puller.configuration.file import Configuration
    from puller.repository.repository import Repository
    from puller.store.options import StoreOptions

T = TypeVar("T")

_CONFIGURED = "Set the repository's password-file or key-file in [repositories] of the configuration."
_NAME = re.compile(r"(?!\.+$)[\w.-]+")
"""A word that can only be a name in the configuration; credentials in a URL must not appear in a message."""


def repository_url(settings: Settings) -> str:
    """Return the repository's URL. Raises UsageError if none is given, or a name that nothing has."""
    if not settings.repository:
        raise _none_given(settings.configure())
    if _NAME.fullmatch(settings.repository):  # a name in the configuration has become a URL by now
        raise _unknown(settings.repository, list(settings.configure().repositories))
    return settings.repository


def _none_given(configuration: Configuration) -> UsageError:
    if configuration.is_withheld:
        return UsageError(
            "no repository given, and this user may not read the configuration",
            advice="Run the command as root, or set the repository with -r URL or PULLER_REPOSITORY.",
        )
    names = list(configuration.repositories)
    if len(names) < 2:
        advice = "Set it with -r URL, PULLER_REPOSITORY or the configuration."
        return UsageError("no repository given", advice=advice)
    return UsageError(
        f"no repository given, and the configuration has several: {', '.join(names)}",
        advice="Name one with -r, or set 'repository' to one in [defaults] of the configuration.",
    )


def _unknown(name: str, names: list[str]) -> UsageError:
    from puller.configuration.mistakes import meant

    return UsageError(
        f"cannot find repository {name}: it is not a name in the configuration, nor a URL or a path",
        advice=meant(name, names)
        or "Write s3://bucket/prefix, a directory as /path or ./path, or a name in "
        "[repositories] of the configuration.",
    )


def open_repository(settings: Settings, scope: CancelScope | None = None) -> Repository:
    """Open the repository; ask for its password if it needs one that was not given.

    The waits for its store belong to ``scope``.

    Raises UsageError and the errors of ``puller.open_repository``.
    """
    repository, _ = open_with_secret(settings, scope)
    return repository


def open_with_secret(settings: Settings, scope: CancelScope | None = None) -> tuple[Repository, Secret]:
    """Open the repository, and return the secret too, because the key commands need it again."""
    repository, secret = _open_or_ask(settings, scope)
    _warn_if_replaced(repository)
    return repository, secret


def _warn_if_replaced(repository: Repository) -> None:
    if (replaced := repository.replaced) is not None:
        say(f"puller: {replaced.text}\n  {replaced.advice}", "repository-replaced", ERROR)


def open_other(
    settings: Settings,
    word: str,
    password_file: str | None,
    key_file: str | None,
    scope: CancelScope | None = None,
) -> Repository:
    """Open another repository: ``word`` is a name in the configuration, or a URL.

    The waits for its store belong to ``scope``. Without a file, its secret is that of the configuration, or
    else that of the first repository. Raises UsageError and the errors of ``puller.open_repository``.
    """
    repository, _ = open_other_with_secret(settings, word, password_file, key_file, scope)
    return repository


def open_other_with_secret(
    settings: Settings,
    word: str,
    password_file: str | None,
    key_file: str | None,
    scope: CancelScope | None = None,
) -> tuple[Repository, Secret]:
    """Like ``open_other``, and return the secret too."""
    other = settings.of(word)
    secret = other_secret(key_file, password_file, other.place)
    try:
        if not secret.is_given:
            return open_with_secret(other, scope)
        repository = _open(other, repository_url(other), secret, scope)
    except NotEncrypted as error:
        raise NotEncrypted(f"{error.message}{_taken_from(secret)}", advice=error.advice) from error
    except WrongKey as error:
        text = f"cannot open {other.repository}: {error.message}{_taken_from(secret)}"
        raise WrongKey(text, advice=_CONFIGURED) from error
    _warn_if_replaced(repository)
    return repository, secret


@contextmanager
def secret_named_by(option: str) -> Iterator[None]:
    """Open another repository inside, which ``option`` has named: name the options for its secret.

    The variables in the usual advice are for the first repository.
    """
    try:
        yield
    except NotEncrypted:
        raise
    except WrongKey as error:
        advice = f"Name a file with its password in {option}-password-file, or its key file in "
        raise WrongKey(error.message, advice=f"{advice}{option}-key-file.") from error


def _taken_from(secret: Secret) -> str:
    return f" (taken from {secret.source})" if secret.is_given else ""


def _open_or_ask(settings: Settings, scope: CancelScope | None) -> tuple[Repository, Secret]:
    def attempt(url: str, secret: Secret) -> tuple[Repository, Secret]:
        return _open(settings, url, secret, scope), secret

    return open_or_ask(settings, attempt)


def open_or_ask(settings: Settings, attempt: Callable[[str, Secret], T]) -> T:
    """Call ``attempt`` with the repository's URL and secret; ask for the password if that needs one.

    Raises UsageError and the errors of ``attempt``.
    """
    url, secret = repository_url(settings), _secret(settings)
    try:
        return attempt(url, secret)
    except NotEncrypted as error:
        if secret.is_given:
            raise NotEncrypted(
                f"{error.message} (taken from {secret.source})", advice=error.advice
            ) from error
        raise
    except WrongKey as error:
        if secret.is_given:
            raise _wrong(error, secret) from error
        if not can_ask():
            raise
    return attempt(url, ask("Password of the repository", twice=False))


def _secret(settings: Settings) -> Secret:
    """Return the secret from an option, the environment or the configuration for this repository."""
    return given_secret(settings.key_file, os.environ, settings.place)


def _wrong(error: WrongKey, secret: Secret) -> WrongKey:
    """Add the source of the secret, because there are many."""
    advice = error.advice
    if secret.key_file is not None:
        advice = "Set another key file with --key-file or PULLER_KEY_FILE, or unset it to use a password."
    return WrongKey(f"{error.message} (taken from {secret.source})", advice=advice)


def store_options(settings: Settings) -> StoreOptions:
    """Return the options of the repository's store, from environment and configuration. Raises UsageError."""
    from puller.store.options import DEFAULTS, from_environment

    return from_environment(os.environ, DEFAULTS if settings.place is None else settings.place.options)


def _open(settings: Settings, url: str, secret: Secret, scope: CancelScope | None) -> Repository:
    kept = settings.place.index_budget if settings.place is not None else None
    with loading():
        from puller import api

        return api.open_repository(
            url,
            password=secret.password,
            key_file=secret.key_file,
            store_options=store_options(settings),
            index_budget=kept,
            scope=scope,
        )


def create_repository(
    settings: Settings,
    encrypted: bool,
    lock_mode: LockMode | None = None,
    lock_period: timedelta | None = None,
    like: tuple[Repository, Secret] | None = None,
) -> Repository:
    """Create the repository, ``like`` another one and the secret that opened it, if any.

    Raises UsageError and the errors of ``puller.create_repository``.
    """
    url, secret = repository_url(settings), _secret(settings)
    if encrypted and not secret.is_given:
        secret = _new_password()
    if not encrypted and secret.is_given:
        if settings.verbosity >= 0:
            say(
                "puller: --no-encryption ignores the given password or key file; unset it, or other "
                "commands will refuse the repository"
            )
        secret = Secret()
    from puller import api

    kin, opener = like or (None, Secret())
    return api.create_repository(
        url,
        password=secret.password,
        key_file=secret.key_file,
        lock_mode=lock_mode,
        lock_period=lock_period,
        like=kin,
        like_password=opener.password,
        like_key_file=opener.key_file,
        store_options=store_options(settings),
    )


def _new_password() -> Secret:
    if not can_ask():
        raise UsageError(
            "a new repository needs a password or a key file",
            advice="Set PULLER_PASSWORD, PULLER_PASSWORD_FILE or PULLER_KEY_FILE, or pass --no-encryption.",
        )
    return ask("Password for the new repository", twice=True)
