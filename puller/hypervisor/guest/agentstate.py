"""Whether a domain has a channel to the QEMU guest agent, and whether the agent answers."""

from __future__ import annotations

import enum

import libvirt

from puller.hypervisor.domain.domain import Domain
from puller.hypervisor.faults import code_of, translate
from puller.hypervisor.guest import guestagent


class AgentState(enum.Enum):
    """State of the agent of a running guest."""

    NO_CHANNEL = "no channel"
    NOT_CONNECTED = "not connected"
    SILENT = "silent"
    ANSWERS = "answers"


def agent_state(domain: Domain) -> AgentState:
    """Ask the agent of a running guest for the time, which changes nothing and does not taint the domain.

    libvirt first synchronises with the agent, and gives up after 5 s if the agent is silent.
    """
    if not guestagent.has_channel(domain):
        return AgentState.NO_CHANNEL
    if not guestagent.is_connected(domain):
        return AgentState.NOT_CONNECTED
    with translate(f"cannot query the guest agent of domain {domain.name}"):
        try:
            domain.handle.getTime()
        except libvirt.libvirtError as error:
            if code_of(error) in (libvirt.VIR_ERR_AGENT_UNRESPONSIVE, libvirt.VIR_ERR_AGENT_UNSYNCED):
                return AgentState.SILENT
            raise
    return AgentState.ANSWERS
