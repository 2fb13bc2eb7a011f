"""A forwarded port of QEMU's user-mode network (``puller.hypervisor.domain.definition.drill_xml``).

QEMU accepts connections at such a port whether anybody in the guest listens or not. Only its own list says
whether the guest has answered::

    Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ
    TCP[ESTABLISHED]   18       127.0.0.1 39077       10.0.2.15    80     0     0
    TCP[HOST_FORWARD]  10       127.0.0.1 39077       10.0.2.15    80     0     0

Every connection has the forwarded port there, not its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from puller.errors import HypervisorError
from puller.hypervisor.domain.domain import Domain
from puller.hypervisor.faults import translate

_LINE = re.compile(r"^\s*TCP\[(?P<state>\w+)\]\s+\d+\s+127\.0\.0\.1\s+(?P<port>\d+)\s", re.MULTILINE)


def forwarded_port(domain: Domain) -> int:
    """Return the port of this host that leads into the guest. Raises HypervisorError."""
    for state, port in _connections(domain):
        if state == "HOST_FORWARD":
            return port
    raise HypervisorError(f"QEMU forwards no port to domain {domain.name}")


def has_accepted(domain: Domain) -> bool:
    """Return whether the guest has accepted a connection at the forwarded port. Raises HypervisorError."""
    return any(state == "ESTABLISHED" for state, _ in _connections(domain))


def _connections(domain: Domain) -> Iterator[tuple[str, int]]:
    text = json.dumps({"execute": "human-monitor-command", "arguments": {"command-line": "info usernet"}})
    with translate(f"cannot ask QEMU for the connections of domain {domain.name}"):
        answer = json.loads(domain.handle.ask_qemu(text))
    for line in _LINE.finditer(str(answer.get("return", ""))):
        yield line["state"], int(line["port"])
