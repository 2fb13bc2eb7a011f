"""Putting a booted machine together again: after a restart of the host, or where its server is gone."""

from __future__ import annotations

from collections.abc import Mapping

from puller.errors import HypervisorError, NoSuchDomain, UsageError
from puller.hypervisor.connection import Host
from puller.hypervisor.domain import lifecycle
from puller.hypervisor.domain.definition.reconnect import wait_for_server, waits_by_itself
from puller.hypervisor.domain.domain import Domain
from puller.hypervisor.job.blockpull import images_behind, pull_progress
from puller.recovery.booting import image_server, record
from puller.recovery.booting.boot import run_guest
from puller.recovery.booting.discard import find_domain
from puller.recovery.booting.held import machine_held
from puller.recovery.booting.networks import require_active
from puller.recovery.booting.pulling import require_alone
from puller.recovery.booting.record import Booted
from puller.recovery.booting.wholeness import put_behind
from puller.repository.repository import Repository


def resume(booted: Booted, repository: Repository, environment: Mapping[str, str]) -> None:
    """Start the server and the domain, each unless it runs.

    Raises Locked, NotBooted, UsageError, HypervisorError, ServeFailed, StoreError.
    """
    with machine_held(booted):
        _resume(record.read(booted.name), repository, environment)


def _resume(booted: Booted, repository: Repository, environment: Mapping[str, str]) -> None:
    if booted.state == "booting":
        raise UsageError(
            f"machine {booted.name} was not booted to the end: there is nothing to resume",
            advice=f"Run 'puller boot --discard {booted.name}', and boot the point again.",
        )
    with Host.connect(booted.connect, repository.scope) as host:
        if (domain := find_domain(booted, host)) is None:
            raise NoSuchDomain(
                f"libvirt at {booted.connect} has no domain {booted.name} ({booted.uuid})",
                advice=f"Define it again with virsh; its overlays are in {booted.storage}.",
            )
        if not domain.is_active():
            require_active(domain.inactive_xml(), host)
        if booted.state == "standalone":
            pass
        elif all(disk.whole for disk in booted.disks):
            # puller was killed before it noted that, and perhaps the point is gone
            require_alone(booted, domain, host)
        else:
            if not domain.is_active():
                put_behind(booted, domain, host)
            point = repository.points.select(booted.point)
            image_server.start(booted, repository, point, environment)
            image_server.wait_ready(booted, repository.scope)
        _run(domain)


def _run(domain: Domain) -> None:
    if not domain.is_active():
        run_guest(domain)
        return
    if not waits_by_itself(domain.inactive_xml()) and not _is_being_pulled(domain):
        wait_for_server(domain)
    if not domain.is_running():
        lifecycle.resume(domain)


def _is_being_pulled(domain: Domain) -> bool:
    """A job is only begun after QEMU waits for the server; and it must not lose what it reads from."""
    try:
        return any(pull_progress(domain, target) for target in images_behind(domain.xml()))
    except HypervisorError:
        return True
