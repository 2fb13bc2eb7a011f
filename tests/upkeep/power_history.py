"""A history of a repository in a directory whose every system call is recorded, and the power cuts in it.

Each command *makes* facts or *ends* them. A fact that a finished command made is certain after a power cut,
one that it ended is gone, and one of a command under way may be either.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

from puller.errors import NoRepository, PullerError, RepositoryExists, WrongKey
from puller.events import ignore
from puller.repository import repository as repositories
from puller.repository.keys.key_slots import FULL, KeyFile
from puller.repository.points import Point
from puller.repository.records.kept import Keep
from puller.repository.records.proofs import Proof
from puller.repository.repository import Repository
from puller.repository.writing.pending import KEPT as PENDING_KEPT
from puller.store.directory.folder import FolderStore
from puller.upkeep.checking.check import check
from puller.upkeep.checking.schedule import Reading
from puller.upkeep.keys import add_key, list_keys, remove_key
from puller.upkeep.pruning.prune import prune
from puller.upkeep.repair import repair_index
from puller.upkeep.retention.delete import delete
from puller.upkeep.retention.keep import keep, release
from puller.upkeep.retention.policy import Policy
from tests.lab.fuse_memory import Quirks, Record, mounted, records
from tests.lab.history import MOMENT, Disk, back_up, is_whole
from tests.lab.power_cut import Choice, Everything, Mixture, Names, Nothing, Tree, lay_out
from tests.lab.power_cut import Disk as Platter

FIRST, SECOND = KeyFile(b"first" * 10), KeyFile(b"second" * 10)
NOW = timedelta(0)
LONG_AGO = 2 * PENDING_KEPT
"""Age in seconds of everything when the power is back: leases, pending points and leftovers have expired."""


@dataclass(frozen=True)
class Fact:
    """A ``kind`` of thing, and which one."""

    kind: str
    name: str = ""


@dataclass(frozen=True)
class Command:
    """What ran between two records of the log, by number."""

    name: str
    begin: int
    end: int
    made: frozenset[Fact]
    ended: frozenset[Fact]


@dataclass(frozen=True)
class Expected:
    """What has to be there, and what may be there; all else is gone."""

    certain: frozenset[Fact]
    possible: frozenset[Fact]


@dataclass
class History:
    """What was done, what it asked of the file system, and what each point must restore to."""

    log: Path
    root: Path
    commands: list[Command] = field(default_factory=list)
    disks: dict[str, Disk] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)
    keys: dict[str, str] = field(default_factory=dict)

    def run(self, name: str, work: Callable[[], Iterable[Fact]], ended: Iterable[Fact] = ()) -> None:
        """Run a command, which returns the facts that it made."""
        begin = len(records(self.log))
        made = frozenset(work())
        self.commands.append(Command(name, begin, len(records(self.log)), made, frozenset(ended)))

    def expected(self, cut: int) -> Expected:
        """After the first ``cut`` records."""
        certain: set[Fact] = set()
        possible: set[Fact] = set()
        for command in self.commands:
            if cut >= command.end:
                certain = (certain | command.made) - command.ended
            elif cut > command.begin:
                possible = set(command.made | command.ended)
                certain -= command.ended
        return Expected(frozenset(certain), frozenset(possible))

    def at(self, cut: int) -> str:
        """What ran then."""
        return next((item.name for item in self.commands if item.begin < cut <= item.end), "nothing")

    def open(self, secret: KeyFile = FIRST) -> Repository:
        return repositories.open_repository(FolderStore(self.root), secret)

    # --- commands ---------------------------------------------------------------------------

    def init(self) -> Iterable[Fact]:
        repositories.create(FolderStore(self.root), FIRST)
        return [Fact("repository"), Fact("key", "first")]

    def back_up(self, domain: str, disk: Disk, parent: Point | None = None) -> Iterable[Fact]:
        before = self.disks[parent.point] if parent else None
        moment = MOMENT + timedelta(seconds=len(self.points))
        backup = back_up(self.open(), domain, disk, parent, before, moment=moment)
        self.points.append(backup.point)
        self.disks[backup.point.point] = disk
        backup.commit()
        return [Fact("point", backup.point.point)]

    def keep(self, point: Point) -> Iterable[Fact]:
        keep(self.open(), point.point, Keep(note="before the migration"))
        return [Fact("keep", point.point)]

    def release(self, point: Point) -> Iterable[Fact]:
        release(self.open(), point.point)
        return []

    def prove(self, point: Point) -> Iterable[Fact]:
        proof = Proof(datetime.now(UTC), "proven", point.domain, "kvm1", "agent", 1.0)
        self.open().proofs.put((point.uuid, point.point), proof)
        return [Fact("proof", point.point)]

    def delete(self, *points: Point) -> Iterable[Fact]:
        delete(self.open(), [point.point for point in points])
        return []

    def prune(self) -> Iterable[Fact]:
        report = prune(self.open(), Policy(), NOW)
        assert report.packs_deleted or report.packs_compacted
        return []

    def check(self) -> Iterable[Fact]:
        assert not check(self.open(), [], Reading(100.0), ignore).errors
        return []

    def condemn_sound_pack(self) -> Iterable[Fact]:
        """As a check of a host with bad memory does."""
        repository = self.open()
        pack = next(pack.pack_id for pack in repository.indexed())
        repository.damaged.put([pack])
        return [Fact("damage", pack.hex())]

    def reindex(self) -> Iterable[Fact]:
        repair_index(self.open())
        return []

    def add_key(self) -> Iterable[Fact]:
        self.keys["second"] = add_key(self.open(), FIRST, SECOND, FULL, "second")
        return [Fact("key", "second")]

    def remove_key(self) -> Iterable[Fact]:
        repository = self.open(SECOND)
        first = next(item.key for item in list_keys(repository, FIRST) if item.opened)
        remove_key(repository, first)
        return []


LINKED: Mapping[str, int] = {}
UNLINKED = {"link": errno.EPERM}
"""What file systems without hard links refuse."""


def recorded(folder: Path, refused: Mapping[str, int] = LINKED) -> tuple[History, list[Record]]:
    """Play a whole history in ``folder``: every command that writes."""
    log = folder / "log"
    with mounted(folder / "mount", Quirks(refused, str(log))) as root:
        history = History(log, root / "repository")
        _play(history)
        return history, records(log)


def _play(history: History) -> None:
    points = history.points
    history.run("init", history.init)
    history.run("backup", lambda: history.back_up("a", [1, 2, 3, 4, 5, 0]))
    history.run("backup", lambda: history.back_up("a", [1, 7, 8, 9, 5, 6], points[0]))
    history.run("backup", lambda: history.back_up("b", [7, 8, 0, 10]))
    first, second, third = points
    history.run("keep", lambda: history.keep(second))
    history.run("keep again", lambda: history.keep(second))
    history.run("prove", lambda: history.prove(third))
    history.run("delete", lambda: history.delete(first), [Fact("point", first.point)])
    history.run("prune", history.prune)
    history.run("check", history.check)
    history.run("record damage", history.condemn_sound_pack)
    history.run("check after damage", history.check, history.commands[-1].made)
    history.run("repair index", history.reindex)
    history.run("key add", history.add_key)
    history.run("release", lambda: history.release(second), [Fact("keep", second.point)])
    history.run("backup", lambda: history.back_up("b", [7, 11, 0, 12], third))
    gone = [Fact("point", third.point), Fact("proof", third.point)]
    history.run("delete", lambda: history.delete(third), gone[:1])
    history.run("prune again", history.prune)
    history.run("key remove", history.remove_key, [Fact("key", "first")])


# --- after a power cut ----------------------------------------------------------------------


@dataclass(frozen=True)
class Cut:
    """A power cut after ``records`` records, and what was on the disk then."""

    records: int
    choice: str
    tree: Tree


def choices(seed: int, mixtures: int) -> Iterator[tuple[str, Choice]]:
    """What may become of pending changes: the extremes, and as many mixtures."""
    extremes: dict[str, Choice] = {"nothing": Nothing(), "everything": Everything(), "names": Names()}
    yield from extremes.items()
    for number in range(mixtures):
        yield f"mixture {seed + number}", Mixture(seed + number)


def cuts(history: History, log: list[Record], seed: int, mixtures: int) -> Iterator[Cut]:
    """Every state that a power cut can leave, each once, at every point of the log."""
    platter, seen, seeds = Platter(), set[int](), count(seed, mixtures or 1)
    for number in range(len(log) + 1):
        if number:
            platter.follow(log[number - 1])
        expected = history.expected(number)
        for name, choice in choices(next(seeds), mixtures):
            tree = platter.after(choice)
            state = hash((expected, tuple(sorted(tree.items(), key=lambda item: item[0]))))
            if state not in seen:
                seen.add(state)
                yield Cut(number, name, tree)


@dataclass
class Aftermath:
    """The repository as the power comes back, in a directory of its own."""

    history: History
    cut: Cut
    folder: Path

    def __post_init__(self) -> None:
        self.expected = self.history.expected(self.cut.records)
        self.root = self.folder / "repository"

    def lay_out(self) -> None:
        """Put everything there, as old as it is when somebody comes to look."""
        lay_out(self.cut.tree, self.folder)
        for path in self.folder.rglob("*"):
            status = path.stat()
            os.utime(path, (status.st_atime, status.st_mtime - LONG_AGO))

    def faults(self) -> list[str]:
        """What is lost, or there and should not be."""
        repository = self._opened()
        if repository is None:
            return ["the repository cannot be opened"] if Fact("repository") in self.expected.certain else []
        return [*self._wrong_facts(repository), *self._broken_points(repository)]

    def go_on(self) -> list[str]:
        """Work with it unaided: what fails, is lost, or is left over."""
        try:
            repository = self._opened() or self._created()
            before = self._facts(repository)
            self._work(repository)
            found = [
                f"lost later: {fact}" for fact in before - self._facts(repository) if fact.kind in _LASTING
            ]
            return (
                found + self._broken_points(repository) + self._leftovers() + self._strange_keys(repository)
            )
        except PullerError as error:
            return [f"{type(error).__name__}: {error.message}"]

    def _opened(self) -> Repository | None:
        for secret in (FIRST, SECOND):
            with suppress(NoRepository, WrongKey):
                return repositories.open_repository(FolderStore(self.root), secret)
        return None

    def _created(self) -> Repository:
        with suppress(RepositoryExists):
            return repositories.create(FolderStore(self.root), FIRST)
        raise NoRepository("it exists and cannot be opened")

    def _facts(self, repository: Repository) -> set[Fact]:
        facts = {Fact("repository")}
        for name, secret in (("first", FIRST), ("second", SECOND)):
            with suppress(WrongKey):
                repositories.open_repository(FolderStore(self.root), secret)
                facts.add(Fact("key", name))
        facts |= {Fact("point", point) for _, point in repository.points.names()}
        facts |= {Fact("keep", name[1]) for name in repository.keeps.holding(datetime.now(UTC))}
        facts |= {Fact("proof", name[1]) for name in repository.proofs.newest()}
        return facts | {
            Fact("damage", pack.hex()) for record in repository.damaged.read() for pack in record.packs
        }

    def _wrong_facts(self, repository: Repository) -> Iterator[str]:
        found = self._facts(repository)
        for fact in self.expected.certain - found:
            yield f"lost: {fact}"
        for fact in found - self.expected.certain - self.expected.possible:
            if fact.kind != "proof":  # prune lets the proofs of points that are gone go when it pleases
                yield f"back again: {fact}"

    def _broken_points(self, repository: Repository) -> list[str]:
        points = [(point, self.history.disks.get(point.point)) for point in repository.points.all()]
        return [
            f"broken: {point.point}"
            for point, disk in points
            if disk is not None and not is_whole(repository, point, disk)
        ]

    def _work(self, repository: Repository) -> None:
        newest = max(repository.points.all(), key=lambda point: point.time, default=None)
        disk = [21, 22, 3, 4, 5, 6] if newest is None else [21, *self.history.disks[newest.point][1:]]
        before = None if newest is None else self.history.disks[newest.point]
        domain = "a" if newest is None else newest.domain
        moment = MOMENT + timedelta(days=1)
        later = back_up(repository, domain, disk, newest, before, moment=moment).commit()
        self.history.disks[later.point] = disk
        self._require_sound(repository)
        prune(repository, Policy(), NOW)
        self._require_sound(repository)

    def _require_sound(self, repository: Repository) -> None:
        errors = check(repository, [], Reading(100.0), ignore).errors
        if errors:
            raise PullerError(f"check finds {errors[0].message}")

    def _leftovers(self) -> list[str]:
        names = [str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file()]
        return [
            f"left over: {name}"
            for name in names
            if ".tmp-" in name or name.startswith(("pending/", "locks/"))
        ]

    def _strange_keys(self, repository: Repository) -> list[str]:
        """Keys that count as some of the repository and open nothing."""
        known = sum(fact.kind == "key" for fact in self._facts(repository))
        listed = list_keys(repository, None)
        return [] if len(listed) == known else [f"keys that open nothing: {len(listed) - known}"]


_LASTING = {"repository", "key", "point", "keep"}
"""Kinds of facts that no check and no prune ends."""


def found_fault(history: History, cut: Cut, folder: Path, *, goes_on: bool) -> str | None:
    """What is wrong after ``cut``, or None."""
    aftermath = Aftermath(history, cut, folder)
    try:
        aftermath.lay_out()
        try:
            faults = aftermath.faults()
        except PullerError as error:
            faults = [f"{type(error).__name__}: {error.message}"]
        if not faults and goes_on:
            faults = aftermath.go_on()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if not faults:
        return None
    return (
        f"power cut after {cut.records} calls, in {history.at(cut.records)}, with {cut.choice}: {faults[0]}"
    )
