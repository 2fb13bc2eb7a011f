"""Whether a domain has a channel to the QEMU guest agent, and whether somebody answers at its other end."""

from __future__ import annotations

import enum

import libvirt

from puller.hypervisor.domain.domain import Domain
from puller.hypervisor.faults import code_of, translate
from puller.hypervisor.guest import guestagent


class AgentState(enum.Enum):
    """What is known of the agent of a running guest."""

    NO_CHANNEL = "no channel"
    NOT_CONNECTED = "not connected"
    SILENT = "silent"
    ANSWERS = "answers"


def agent_state(domain: Domain) -> AgentState:
    """Ask the agent of a running guest for the time: that changes nothing, and does not taint the domain.

    libvirt first synchronises with the agent, which takes 5 s at most where it is silent.
    """
    if not guestagent.has_channel(domain):
        return AgentState.NO_CHANNEL
    if not guestagent.is_connected(domain):
        return AgentState.NOT_CONNECTED
    with translate(f"cannot ask the guest agent of domain {domain.name}"):
        try:
            domain.handle.getTime()
        except libvirt.libvirtError as error:
            if code_of(error) in (libvirt.VIR_ERR_AGENT_UNRESPONSIVE, libvirt.VIR_ERR_AGENT_UNSYNCED):
                return AgentState.SILENT
            raise
    return AgentState.ANSWERS
