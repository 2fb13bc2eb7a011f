"""The QEMU guest agent of a domain: freeze and thaw of file systems.

See ``virDomainFSFreeze`` in https://libvirt.org/html/libvirt-libvirt-domain.html. A call to an agent that
hangs (because of a hook or a file system) ends after a time limit, yet the agent may freeze *later*, once
it goes on. Only a thaw that it has answered is certain, so puller repeats the thaw until it is answered.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence

from puller.errors import HypervisorError, JobRunning
from puller.hypervisor.domain.domain import Domain
from puller.hypervisor.faults import translate

CHANNEL = "org.qemu.guest_agent.0"
"""The agent's virtio port: QEMU's ``docs/interop/qemu-ga.rst``."""


FOREVER = -2
"""``VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_BLOCK``: libvirt's default."""


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


def _channel(domain: Domain) -> ET.Element | None:
    path = f"./devices/channel/target[@type='virtio'][@name='{CHANNEL}']"
    return ET.fromstring(domain.xml()).find(path)
