"""Webhooks, and pings of a service that waits for them (see https://healthchecks.io/docs/http_api/).

Such URLs are secrets, so messages name only their host.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlsplit

import urllib3

from puller.errors import PullerError
from puller.notifying.patience import within_time

_TIMES = urllib3.Timeout(connect=5, read=10)
_TRIES = urllib3.Retry(total=1, backoff_factor=1, status_forcelist=(502, 503, 504), allowed_methods=None)


def post_json(url: str, content: dict[str, Any]) -> None:
    """Post the JSON. Raises PullerError."""
    _post(
        url,
        json.dumps(content, ensure_ascii=False).encode(errors="replace"),
        "application/json",
        "call the webhook at",
    )


def ping(url: str, signal: str, text: str = "") -> None:
    """Send a ``signal`` to the service: ``start``, or an exit code. ``text`` goes into its log.

    Raises PullerError.
    """
    parts = urlsplit(url)
    address = parts._replace(path=f"{parts.path.rstrip('/')}/{signal}").geturl()
    _post(address, text.encode()[:10_000], "text/plain; charset=utf-8", "ping")


def _post(url: str, body: bytes, kind: str, verb: str) -> None:
    host = urlsplit(url).hostname

    def post() -> int:
        with urllib3.PoolManager(retries=_TRIES, timeout=_TIMES) as pool:
            headers = {"Content-Type": kind}
            # The body of the answer is not read: it may have no end.
            answer = pool.request(
                "POST", url, body=body, headers=headers, redirect=False, preload_content=False
            )
            answer.close()
            return answer.status

    try:
        status = within_time(post)
    except (urllib3.exceptions.HTTPError, ValueError, TimeoutError) as error:
        raise PullerError(f"cannot {verb} {host}: {_reason(error)}") from None  # the cause names the URL
    if not 200 <= status < 300:
        raise PullerError(f"cannot {verb} {host}: it answers {status}")


def _reason(error: Exception) -> str:
    cause = getattr(error, "reason", None) or error
    text = type(cause).__name__
    return {
        "NewConnectionError": "no connection",
        "NameResolutionError": "the name is not known",
        "ConnectTimeoutError": "no answer",
        "ReadTimeoutError": "no answer",
        "TimeoutError": "no answer",
        "SSLError": "its certificate is not trusted",
    }.get(text, text)
