"""The address of a QEMU's monitor, and of its guest agent's socket, from a connection URI.

``qmp:///path/to/qmp.sock``, ``qmp+tcp://127.0.0.1:4444``, and ``?agent=/path/to/qga.sock`` behind either.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from puller.errors import UsageError
from puller.hypervisor.uri import is_local

_ADVICE = (
    "Use qmp:///path/to/qmp.sock or qmp+tcp://127.0.0.1:PORT, with ?agent=/path/to/qga.sock if the guest has "
    "an agent."
)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a QEMU listens: behind the Unix socket ``path``, or on ``port`` of the loopback ``host``.

    ``agent`` is the Unix socket of the guest agent's channel.
    """

    uri: str
    path: Path | None
    host: str = ""
    port: int = 0
    agent: Path | None = None

    def __str__(self) -> str:
        return f"{self.host}:{self.port}" if self.path is None else str(self.path)


def parse(uri: str) -> Address:
    """Return the address in ``uri``. Raises UsageError, also for another host: QMP has no password."""
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise UsageError(f"invalid URI '{uri}': it names no host and port", advice=_ADVICE) from error
    agent = _agent(uri, parts.query)
    if parts.scheme == "qmp":
        if parts.netloc or not parts.path.strip("/"):
            raise UsageError(f"invalid URI '{uri}': it names no socket", advice=_ADVICE)
        return Address(uri, Path(unquote(parts.path)), agent=agent)
    try:
        port = parts.port
    except ValueError:
        port = None
    if parts.hostname is None or port is None or parts.path.strip("/"):
        raise UsageError(f"invalid URI '{uri}': it names no host and port", advice=_ADVICE)
    if not is_local(uri):
        raise UsageError(
            f"cannot connect to QEMU at {uri}: it is on another host, and QMP has no password",
            advice="Run puller on the host of the machine, and name its socket: qmp:///path/to/qmp.sock.",
        )
    return Address(uri, None, parts.hostname, port, agent)


def _agent(uri: str, query: str) -> Path | None:
    named = dict(parse_qsl(query, keep_blank_values=True))
    agent = named.pop("agent", None)
    if named or agent == "" or (agent is not None and not agent.startswith("/")):
        raise UsageError(f"invalid URI '{uri}': the only parameter is agent=/path", advice=_ADVICE)
    return None if agent is None else Path(agent)
