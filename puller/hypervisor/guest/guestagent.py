"""The QEMU guest agent of a domain: freeze and thaw of file systems.

See ``virDomainFSFreeze`` in https://libvirt.org/html/libvirt-libvirt-domain.html. A call to an agent that
hangs (because of a hook or a file system) ends after a time limit, yet the agent may freeze *later*, once
it goes on. Only a thaw that it has answered is certain, so puller repeats the thaw until it is answered.
"""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from typing import Any

import libvirt_qemu

from puller.cancelling import CancelScope
from puller.errors import HypervisorError, JobRunning
from puller.hypervisor.domain.domain import Domain
from puller.hypervisor.faults import translate
from puller.hypervisor.uri import is_embedded

CHANNEL = "org.qemu.guest_agent.0"
"""The agent's virtio port: QEMU's ``docs/interop/qemu-ga.rst``."""


FOREVER = -2
"""``VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_BLOCK``: libvirt's default."""


_ANSWER = 10
"""Seconds for the answer to one of the agent's own commands."""

_REFUSAL = re.compile(r"guest-fsfreeze-(?:freeze|thaw) has (?:been disabled|not been found)")


def has_channel(domain: Domain) -> bool:
    """Return whether the domain has a channel for an agent."""
    return _channel(domain) is not None


def is_connected(domain: Domain) -> bool:
    """Return whether an agent in the guest has opened its channel; libvirt knows that without asking it."""
    target = _channel(domain)
    return target is not None and target.get("state") == "connected"


def set_time_limit(domain: Domain, seconds: int) -> None:
    """Set how many seconds later calls wait for the agent's answer; libvirt's default is forever.

    The limit applies to all clients of the domain until its QEMU ends. libvirt has no call to read it, so a
    limit that an administrator has set (``virsh guest-agent-timeout``) is lost when puller freezes.
    """
    with translate(f"cannot set a time limit for the guest agent of domain {domain.name}"):
        domain.handle.agentSetResponseTimeout(seconds)


def freeze(domain: Domain, mountpoints: Sequence[str] = ()) -> int:
    """Flush and freeze file systems of the guest, by default all; return their number.

    Raises HypervisorError.
    """
    with translate(f"cannot freeze the file systems of domain {domain.name}"):
        return int(domain.handle.fsFreeze(list(mountpoints) or None))


def is_refusal(error: HypervisorError) -> bool:
    """Return whether the agent refused a freeze or a thaw: it answered, and did nothing.

    It refuses a command that is disabled or unknown, and a freeze also while file systems are frozen
    already. libvirt has no error code for that, so this reads the agent's words, which are always English:
    ``Command guest-fsfreeze-freeze has been disabled: the agent is in frozen state`` (7.2), before
    ``The command guest-fsfreeze-freeze has been disabled for this instance``; ``The command
    guest-fsfreeze-freeze has not been found``.
    """
    return _REFUSAL.search(error.message) is not None


def froze_nothing(error: HypervisorError) -> bool:
    """Return whether a failed freeze has frozen nothing, and never will: it was refused, or never sent.

    libvirt sends the agent one command at a time. A command that has waited 30 s for another program's
    fails unsent with ``VIR_ERR_OPERATION_TIMEOUT``. A command that was sent fails with other codes.
    """
    return is_refusal(error) or isinstance(error, JobRunning)


def thaw(domain: Domain) -> int:
    """Thaw all file systems of the guest, and return how many were frozen. Raises HypervisorError."""
    with translate(f"cannot thaw the file systems of domain {domain.name}"):
        return int(domain.handle.fsThaw())


class DomainAgent:
    """The agent of ``domain``, reached through libvirt at ``uri``: see ``puller.hypervisor.guest.agent``."""

    def __init__(self, domain: Domain, uri: str) -> None:
        self._domain = domain
        self._uri = uri
        self.name = domain.name
        self.uuid = domain.uuid

    @property
    def scope(self) -> CancelScope:
        """See Agent."""
        return self._domain.scope

    @property
    def watchdog(self) -> tuple[str, ...] | None:
        """See Agent: no other process can reach an embedded driver."""
        if is_embedded(self._uri):
            return None
        return "puller.hypervisor.guest.thawing", self._uri, self.uuid

    def has_channel(self) -> bool:
        """See Agent."""
        return has_channel(self._domain)

    def is_running(self) -> bool:
        """See Agent."""
        return self._domain.is_running()

    def is_connected(self) -> bool:
        """See Agent."""
        return is_connected(self._domain)

    def limit(self, seconds: int) -> None:
        """See Agent."""
        set_time_limit(self._domain, seconds)

    def unlimit(self) -> None:
        """See Agent."""
        set_time_limit(self._domain, FOREVER)

    def freeze(self, mountpoints: Sequence[str] = ()) -> int:
        """See Agent."""
        return freeze(self._domain, mountpoints)

    def thaw(self) -> int:
        """See Agent."""
        return thaw(self._domain)

    def ask(self, command: str, arguments: Mapping[str, Any]) -> Any:
        """See Agent. libvirt then marks the domain as tainted (``custom-ga-command``)."""
        request = json.dumps({"execute": command, "arguments": arguments})
        with translate(f"cannot run a command in domain {self.name}"):
            answer = self._domain.handle.apply(libvirt_qemu.qemuAgentCommand, request, _ANSWER, 0)
        try:
            return json.loads(answer)["return"]
        except (ValueError, KeyError, TypeError) as error:
            raise HypervisorError(f"the guest agent of domain {self.name} gave no valid answer") from error

    def refused(self, error: HypervisorError) -> bool:
        """See Agent."""
        return is_refusal(error)

    def froze_nothing(self, error: HypervisorError) -> bool:
        """See Agent."""
        return froze_nothing(error)


def _channel(domain: Domain) -> ET.Element | None:
    path = f"./devices/channel/target[@type='virtio'][@name='{CHANNEL}']"
    return ET.fromstring(domain.xml()).find(path)
