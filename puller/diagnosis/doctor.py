"""Doctor: check host, domains and store for problems of backups. It changes neither libvirt nor guests.

It writes only a test object in the repository and deletes it again, because there is no other way to
test credentials.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from puller.cancelling import CancelScope
from puller.diagnosis import disk as disks
from puller.diagnosis import domain as domains
from puller.diagnosis import files, monitored, serving
from puller.diagnosis import host as hosts
from puller.diagnosis import scratch as scratches
from puller.diagnosis import store as stores
from puller.diagnosis.domain import ExaminedDomain
from puller.diagnosis.exercise.exercise import ExerciseReport, exercise
from puller.diagnosis.exercise.plan import Plan
from puller.diagnosis.finding import Finding, Status, ask, attempt
from puller.diagnosis.monitored import Choices
from puller.diagnosis.repository import LastPoint, foreign_objects, identity, opened
from puller.diagnosis.scratch import Folders
from puller.errors import NoSuchDomain, PullerError
from puller.hypervisor.connection import Host
from puller.hypervisor.domain.domain import Domain
from puller.hypervisor.space.scratch import default_directory
from puller.hypervisor.uri import is_monitor
from puller.repository.repository import Repository
from puller.repository.selection import select
from puller.store.base import Store
from puller.store.parallel import each

_AT_ONCE = 8
"""Domains that are checked at a time: most of it is waiting for libvirt, guest agents and the store."""


@dataclass(frozen=True, slots=True)
class Examination:
    """What to examine, for a backup with these choices.

    ``domains`` are names, UUIDs or patterns; if it is empty, all domains are examined except ``excluded``.
    """

    connect: str
    domains: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    disks: tuple[str, ...] = ()
    exclude_disks: tuple[str, ...] = ()
    mode: str = "pull"
    scratch_dir: str | None = None
    staging_dir: str | None = None

    @property
    def choices(self) -> Choices:
        """Return those of them that count for a QEMU without libvirt."""
        return Choices(self.domains, self.disks, self.exclude_disks, self.scratch_dir)


def doctor(store: Store, opener: Callable[[], Repository], examination: Examination) -> Iterator[Finding]:
    """Yield the findings of all checks; ``opener`` opens the repository in ``store``."""
    yield from stores.examine(store)
    opening = attempt("repository", store.url, opener, opened)
    yield opening.check
    if opening.outcome is not None:
        yield ask("identity", store.url, partial(identity, opening.outcome))
        yield ask("foreign-objects", store.url, partial(foreign_objects, opening.outcome))
    yield from serving.examine()
    yield from files.examine()
    uri = examination.connect
    if is_monitor(uri):
        yield from monitored.examine(uri, opening.outcome, examination.choices)
        return
    connecting = attempt("connection", uri, partial(Host.reach, uri), lambda _: "libvirt answers")
    yield connecting.check
    if connecting.outcome is not None:
        with connecting.outcome as host:
            yield from hosts.examine(host)
            yield from _examine_domains(host, opening.outcome, examination)


def exercise_store(store: Store, plan: Plan, tell: Callable[[str], object]) -> ExerciseReport:
    """Check the store, and if it holds a repository and no check has failed, exercise it."""
    checks = tuple(stores.examine(store))
    if hindrance := _hindrance(store, checks):
        return ExerciseReport((*checks, hindrance))
    report = exercise(store, stores.bucket_of(store), plan, tell)
    return replace(report, findings=(*checks, *report.findings))


def _hindrance(store: Store, checks: Sequence[Finding]) -> Finding | None:
    if any(check.status is Status.FAIL for check in checks):
        text, advice = "not tried, because a check of the store has failed", "Fix the failed check first."
    elif not stores.holds_repository(store):
        text = "not tried, because there is no repository"
        advice = "Create the repository with 'puller init' first, or correct the URL."
    else:
        return None
    return Finding("exercise", store.url, Status.FAIL, text, advice)


def _examine_domains(
    host: Host, repository: Repository | None, examination: Examination
) -> Iterator[Finding]:
    listing = attempt("domains", host.uri, host.uuids, lambda known: f"domains: {len(known)}")
    yield listing.check
    chosen = select(listing.outcome or {}, examination.domains or ("*",), examination.excluded)
    if examination.domains and not chosen:
        text = f"no domain matches {', '.join(examination.domains)}"
        yield Finding("domains", host.uri, Status.FAIL, text, "List the domains with 'virsh list --all'.")

    def work(scope: CancelScope, name: str) -> tuple[list[Finding], set[str]]:
        bound = None if repository is None else repository.within(scope)
        return _examine_named(host.within(scope), bound, examination, name)

    met: set[str] = set()
    for checks, targets in each(host.scope, work, chosen, _AT_ONCE):
        met |= targets
        yield from checks

    if unknown := [target for target in examination.exclude_disks if chosen and target not in met]:
        text = f"'exclude-disks' names {unknown[0]}, which none of the examined domains has"
        yield Finding("exclude-disks", host.uri, Status.WARN, text, "Correct the job's 'exclude-disks'.")


def _examine_named(
    host: Host, repository: Repository | None, examination: Examination, name: str
) -> tuple[list[Finding], set[str]]:
    """Examine one domain, and return the targets of its disks.

    A domain that was not named may be undefined meanwhile, which is not a fault.
    """
    looking = attempt("domain", name, partial(host.domain, name), lambda found: found.uuid)
    targets = set() if looking.outcome is None else _targets(looking.outcome)
    checks = [looking.check, *_questions(host, looking.outcome, repository, examination)]
    failed = any(check.status is Status.FAIL for check in checks)
    if failed and name not in examination.domains and _is_gone(host, name):
        return [Finding("domain", name, Status.OK, "undefined meanwhile", "")], set()
    return checks, targets


def _is_gone(host: Host, name: str) -> bool:
    try:
        host.domain(name)
    except NoSuchDomain:
        return True
    except PullerError:
        return False
    return False


def _questions(
    host: Host, domain: Domain | None, repository: Repository | None, examination: Examination
) -> Iterator[Finding]:
    if domain is not None:
        chosen_disks = examination.disks, examination.exclude_disks
        yield from _guarded(ExaminedDomain(host, domain, repository, *chosen_disks), examination)


def _targets(domain: Domain) -> set[str]:
    try:
        return {disk.target for disk in domain.disks()}
    except PullerError:  # the domain is gone, which the checks report
        return set()


def _guarded(examined: ExaminedDomain, examination: Examination) -> Iterator[Finding]:
    """Yield the findings about one domain. If it disappears meanwhile, they end with a failed check."""
    try:
        yield from _examine_domain(examined, examination)
    except PullerError as error:
        yield Finding("domain", examined.domain.name, Status.FAIL, error.message, error.advice)


def _examine_domain(examined: ExaminedDomain, examination: Examination) -> Iterator[Finding]:
    domain = examined.domain
    yield from domains.examine(examined)
    if examined.repository is not None and (domain.is_active() or examination.domains):
        newest = LastPoint(examined.repository, domain.uuid, domain.host.node_name())
        yield ask("last-point", domain.name, newest.answer)
    yield from disks.examine(examined)
    if examined.taken():
        yield from scratches.examine(examined, _folders(examined, examination))


def _folders(examined: ExaminedDomain, examination: Examination) -> Folders:
    taken = tuple(disk for disk in examined.taken() if disk.hindrance is None)
    given = examination.scratch_dir
    if examination.mode == "push" and examination.staging_dir is not None:
        given = examination.staging_dir
    folder = default_directory(taken, examined.domain.state_directory) if given is None else Path(given)
    return Folders(folder, taken, examination.mode)
