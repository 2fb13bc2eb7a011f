"""The QEMU guest agent of a domain, as far as a backup needs it: freeze and thaw of file systems.

See ``virDomainFSFreeze`` in https://libvirt.org/html/libvirt-libvirt-domain.html. An agent that hangs
(a hook of it does, or a file system) is given up after a time limit, yet it may freeze *later*, when
whatever held it ends. Only a thaw that it has answered is certain, so one asks until it does.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

from puller.errors import HypervisorError, JobRunning
from puller.hypervisor.domain.domain import Domain
from puller.hypervisor.faults import translate

CHANNEL = "org.qemu.guest_agent.0"
"""The agent's virtio port: QEMU's ``docs/interop/qemu-ga.rst``."""


FOREVER = -2
"""``VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_BLOCK``: what libvirt begins with."""


_REFUSAL = re.compile(r"guest-fsfreeze-(?:freeze|thaw) has (?:been disabled|not been found)")


def has_channel(domain: Domain) -> bool:
    """Whether the domain has a channel for an agent."""
    return _channel(domain) is not None


def is_connected(domain: Domain) -> bool:
    """Whether an agent in the guest has opened its channel: libvirt sees that without asking it."""
    target = _channel(domain)
    return target is not None and target.get("state") == "connected"


def set_time_limit(domain: Domain, seconds: int) -> None:
    """How long each later question may wait for the agent's answer; libvirt's default is forever.

    It holds for the domain, whoever asks, until its QEMU ends. libvirt does not tell what it is, so one that
    an administrator has set (``virsh guest-agent-timeout``) is lost by a freeze of ours.
    """
    with translate(f"cannot set a time limit for the guest agent of domain {domain.name}"):
        domain.handle.agentSetResponseTimeout(seconds)


def freeze(domain: Domain) -> int:
    """Flush and freeze all file systems of the guest; how many it froze. Raises HypervisorError."""
    with translate(f"cannot freeze the file systems of domain {domain.name}"):
        return int(domain.handle.fsFreeze())


def is_refusal(error: HypervisorError) -> bool:
    """Whether a freeze or a thaw failed because the agent does not carry out the command: it has answered,
    and done nothing.

    It refuses a command that is switched off or that it does not know, and a freeze also while file systems
    are frozen already. libvirt has no code for that; the words are the agent's own, which it says in English
    only: ``Command guest-fsfreeze-freeze has been disabled: the agent is in frozen state`` (7.2), before
    ``The command guest-fsfreeze-freeze has been disabled for this instance``; ``The command
    guest-fsfreeze-freeze has not been found``.
    """
    return _REFUSAL.search(error.message) is not None


def froze_nothing(error: HypervisorError) -> bool:
    """Whether a freeze that failed so has frozen nothing, and never will: it was refused, or never sent.

    libvirt asks the agent one thing at a time. A question that has waited 30 s for the answer to another
    program's is given up unsent, with ``VIR_ERR_OPERATION_TIMEOUT``. One that was sent fails with others.
    """
    return is_refusal(error) or isinstance(error, JobRunning)


def thaw(domain: Domain) -> int:
    """Thaw them; how many were frozen until now. Raises HypervisorError."""
    with translate(f"cannot thaw the file systems of domain {domain.name}"):
        return int(domain.handle.fsThaw())


def _channel(domain: Domain) -> ET.Element | None:
    path = f"./devices/channel/target[@type='virtio'][@name='{CHANNEL}']"
    return ET.fromstring(domain.xml()).find(path)
