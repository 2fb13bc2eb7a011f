"""Where to send notifications: URLs of servers and mail addresses, as written in the configuration."""

from __future__ import annotations

import re
from collections.abc import Collection
from urllib.parse import urlsplit

_ADDRESS = re.compile(r"[^\s@<>,;:\"()\[\]\\]+@[^\s@<>,;:\"()\[\]\\]+")


def web_url(word: str) -> str:
    """Check the URL of a web service. Raises ValueError."""
    return _url(word, ("https", "http"), "https://host/path")


def mail_server(word: str) -> str:
    """Check the URL of a mail server: ``smtp://[USER@]HOST[:PORT]`` or ``smtps://``. Raises ValueError."""
    return _url(word, ("smtp", "smtps"), "smtp://mail.example.org:25")


def address(word: str) -> str:
    """Check a bare mail address. Raises ValueError."""
    if not _ADDRESS.fullmatch(word):
        raise ValueError(f"invalid address '{word}': use one such as ops@example.org")
    return word


def addresses(words: list[str]) -> list[str]:
    """Check mail addresses. Raises ValueError."""
    return [address(word) for word in words]


def _url(word: str, schemes: Collection[str], example: str) -> str:
    """The message leaves out the URL, which may be a secret."""
    try:
        parts = urlsplit(word)
        is_right = parts.scheme in schemes and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        is_right = False
    if not is_right:
        raise ValueError(f"invalid URL: use one such as {example}")
    if urlsplit(word).password is not None:
        raise ValueError("a URL must not hold a password: name a file with it")
    return word
