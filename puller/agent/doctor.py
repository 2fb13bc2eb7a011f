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
from puller.agent.selection import select
from puller.errors import PullerError
from puller.hypervisor.connection import Host
from puller.hypervisor.domain import Domain
from puller.hypervisor.scratch import default_directory
from puller.repository.repository import Repository
from puller.store.base import Store


@dataclass(frozen=True, slots=True)
class Examination:
    """What to examine, as a backup with these choices would take it.

    ``domains`` are names, UUIDs or patterns; if none are named, all are meant but for those that ``excluded``
    means. ``root`` is where the kernel's /sys is.
    """

    connect: str
    domains: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    disks: tuple[str, ...] = ()
    exclude_disks: tuple[str, ...] = ()
    mode: str = "pull"
    scratch_dir: str | None = None
    staging_dir: str | None = None
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
    listing = attempt("domains", host.uri, host.uuids, lambda known: f"domains: {len(known)}")
    yield listing.check
    chosen = select(listing.outcome or {}, examination.domains or ("*",), examination.excluded)
    if examination.domains and not chosen:
        text = f"none is meant by {', '.join(examination.domains)}"
        yield Check("domains", host.uri, Status.FAIL, text, "List the domains with 'virsh list --all'.")
    met: set[str] = set()
    for name in chosen:
        looking = attempt("domain", name, partial(host.domain, name), lambda found: found.uuid)
        yield looking.check
        if looking.outcome is not None:
            chosen_disks = examination.disks, examination.exclude_disks
            met |= _targets(looking.outcome)
            yield from _guarded(Patient(host, looking.outcome, repository, *chosen_disks), examination)

    if unknown := [target for target in examination.exclude_disks if chosen and target not in met]:
        text = f"'exclude-disks' names {unknown[0]}, which none of the examined domains has"
        yield Check("exclude-disks", host.uri, Status.WARN, text, "Correct the job's 'exclude-disks'.")


def _targets(domain: Domain) -> set[str]:
    try:
        return {disk.target for disk in domain.disks()}
    except PullerError:  # it is gone, of which the questions tell
        return set()


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
    if patient.taken():
        yield from scratches.examine(patient, _folders(patient, examination))


def _folders(patient: Patient, examination: Examination) -> Folders:
    taken = tuple(disk for disk in patient.taken() if disk.hindrance is None)
    given = examination.scratch_dir
    if examination.mode == "push" and examination.staging_dir is not None:
        given = examination.staging_dir
    folder = default_directory(taken, patient.domain.state_directory) if given is None else Path(given)
    return Folders(folder, taken, examination.root, examination.mode)
