"""Options of a store: how a server stores the objects, and how it is reached.

They belong to one repository, and come from its table of the configuration or from the environment. For a
directory only ``connections`` has an effect.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from puller.errors import UsageError

BULK = "packs/"
"""Prefix of the keys that get the storage class: chunks of guest data, which are most of the bytes.

Maps, the index and points are small and read in every run, so a class with a price for each read or with a
minimum size would make them more expensive.
"""

SSE = ("AES256", "aws:kms")
ADDRESSING = ("auto", "path", "virtual")
REQUESTER = ("requester",)
MOST_CONNECTIONS = 64

_CLASS = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_ARCHIVES = frozenset({"GLACIER", "DEEP_ARCHIVE"})


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """Options of a store.

    Attributes:
        storage_class: The storage class of packs; None for the bucket's default. Other objects always have
            the default. Archive classes are refused.
        sse: The server's encryption of all objects: ``AES256`` or ``aws:kms``; None for the bucket's default.
        kms_key: The id, ARN or alias of the key for ``aws:kms``; None for the account's default key.
        request_payer: ``requester`` to pay for requests to a bucket of another account.
        addressing: ``path`` (endpoint/bucket), ``virtual`` (bucket.endpoint) or ``auto``; None for the choice
            of the AWS profile.
        ca_bundle: The path of a PEM file with CA certificates for the server; None for the system's.
        credentials_file: The path of a file in the form of ``~/.aws/credentials``, read in its place: access
            key, and if it names them, endpoint and region. AWS variables override what it says.
        connections: The number of uploads, and of ranged reads, at once, from 1 to 64; None to adapt it.

    Raises:
        UsageError: A value cannot be used.
    """

    storage_class: str | None = None
    sse: str | None = None
    kms_key: str | None = None
    request_payer: str | None = None
    addressing: str | None = None
    ca_bundle: str | None = None
    credentials_file: str | None = None
    connections: int | None = None

    def __post_init__(self) -> None:
        for name, (_, read) in _READERS.items():
            value = getattr(self, name)
            if value is not None:
                _checked(name.replace("_", "-"), str(value), read)
        if self.kms_key is not None and self.sse != "aws:kms":
            raise UsageError("cannot use kms-key without sse aws:kms", advice="Set sse to aws:kms.")


def storage_class(word: str) -> str:
    """Check the name of a storage class. Raises ValueError."""
    if word.upper() in _ARCHIVES:
        raise ValueError(
            f"storage class {word} is an archive: its objects cannot be read until hours after "
            "a request, but puller reads packs at any time"
        )
    if not _CLASS.fullmatch(word):
        raise ValueError(f"invalid storage class '{word}': use a class of the server, such as STANDARD_IA")
    return word


def from_environment(environment: Mapping[str, str], configured: StoreOptions) -> StoreOptions:
    """Return the options that variables set, and for the others those of the configuration.

    An empty variable counts as not set. Raises UsageError.
    """
    given: dict[str, Any] = {
        name: _checked(variable, environment[variable], read)
        for name, (variable, read) in _READERS.items()
        if environment.get(variable)
    }
    return replace(configured, **given)


def _checked(name: str, word: str, read: Callable[[str], Any]) -> Any:
    try:
        return read(word)
    except ValueError as error:
        raise UsageError(f"{name}: {error}", advice=f"Correct {name}, or leave it out.") from error


def _one_of(words: tuple[str, ...]) -> Callable[[str], str]:
    def read(word: str) -> str:
        if word not in words:
            raise ValueError(f"invalid value '{word}': use {' or '.join(words)}")
        return word

    return read


def _count(word: str) -> int:
    number = int(word) if word.isascii() and word.isdigit() and len(word) < 4 else 0
    if not 1 <= number <= MOST_CONNECTIONS:
        raise ValueError(f"invalid number '{word}': use a number from 1 to {MOST_CONNECTIONS}")
    return number


_READERS: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "storage_class": ("PULLER_STORAGE_CLASS", storage_class),
    "sse": ("PULLER_SSE", _one_of(SSE)),
    "kms_key": ("PULLER_KMS_KEY", str),
    "request_payer": ("PULLER_REQUEST_PAYER", _one_of(REQUESTER)),
    "addressing": ("PULLER_ADDRESSING", _one_of(ADDRESSING)),
    "ca_bundle": ("PULLER_CA_BUNDLE", str),
    "credentials_file": ("PULLER_CREDENTIALS_FILE", str),
    "connections": ("PULLER_CONNECTIONS", _count),
}
"""By option: its variable, and the reader of its text."""


DEFAULTS = StoreOptions()
