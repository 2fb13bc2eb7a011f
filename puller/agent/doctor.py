"""Doctor: ask host, domains and store for what would break a backup. It changes nothing of theirs.

The one thing that it writes is an object under the repository's ``locks/``, which it deletes again: what
credentials may do can only be known by doing it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from puller.agent.diagnosis import disk as disks
from puller.agent.diagnosis import domain as domains
from puller.agent.diagnosis import host as hosts
from puller.agent.diagnosis import scratch as scratches
from puller.agent.diagnosis import store as stores
from puller.agent.diagnosis.domain import Patient
from puller.agent.diagnosis.finding import Check, Status, ask, attempt
from puller.agent.diagnosis.repository import LastPoint, opened
from puller.agent.diagnosis.scratch import Folders
from puller.errors import PullerError
from puller.hypervisor.connection import Host
from puller.hypervisor.scratch import default_directory
from puller.repository.repository import Repository
from puller.store.base import Store


@dataclass(frozen=True, slots=True)
class Examination:
    """What to examine: the ``domains``, all if none are named. ``root`` is where the kernel's /sys is."""

    connect: str
    domains: tuple[str, ...] = ()
    scratch_dir: str | None = None
    root: Path = Path("/")


def doctor(store: Store, opener: Callable[[], Repository], examination: Examination) -> Iterator[Check]:
    """Ask all questions, one after the other; ``opener`` opens the repository that is in ``store``."""
    yield from stores.examine(store)
    opening = attempt("repository", store.url, opener, opened)
    yield opening.check
    uri = examination.connect
    connecting = attempt("connection", uri, partial(Host.connect, uri), lambda _: "libvirt answers")
    yield connecting.check
    if connecting.outcome is not None:
        with connecting.outcome as host:
            yield from hosts.examine(host)
            yield from _examine_domains(host, opening.outcome, examination)


def _examine_domains(host: Host, repository: Repository | None, examination: Examination) -> Iterator[Check]:
    listing = attempt("domains", host.uri, host.domains, lambda names: f"domains: {len(names)}")
    yield listing.check
    for name in examination.domains or listing.outcome or ():
        looking = attempt("domain", name, partial(host.domain, name), lambda found: found.uuid)
        yield looking.check
        if looking.outcome is not None:
            yield from _guarded(Patient(host, looking.outcome, repository), examination)


def _guarded(patient: Patient, examination: Examination) -> Iterator[Check]:
    """The questions about one domain. It may vanish meanwhile, which ends them with a failed check."""
    try:
        yield from _examine_domain(patient, examination)
    except PullerError as error:
        yield Check("domain", patient.domain.name, Status.FAIL, error.message, error.advice)


def _examine_domain(patient: Patient, examination: Examination) -> Iterator[Check]:
    domain = patient.domain
    yield from domains.examine(patient)
    if patient.repository is not None and (domain.is_active() or examination.domains):
        newest = LastPoint(patient.repository, domain.uuid)
        yield ask("last-point", domain.name, newest.answer)
    yield from disks.examine(patient)
    yield from scratches.examine(patient, _folders(patient, examination))


def _folders(patient: Patient, examination: Examination) -> Folders:
    taken = tuple(disk for disk in patient.domain.disks() if disk.is_candidate and disk.hindrance is None)
    given = examination.scratch_dir
    folder = default_directory(taken, patient.domain.state_directory) if given is None else Path(given)
    return Folders(folder, taken, examination.root)
