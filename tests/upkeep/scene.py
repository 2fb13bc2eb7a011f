"""A repository with some history in a simulated world, and the questions that tests of prune ask of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta

from puller.repository import repository as repositories
from puller.repository.format.footer import DEAD, Footer
from puller.repository.format.packname import PackKind
from puller.repository.format.pages import ZERO, Refs
from puller.repository.keys.key_slots import Password
from puller.repository.points import Point
from puller.repository.repository import Repository
from puller.repository.writing.pending import KEPT as PENDING_KEPT
from puller.upkeep.pruning.prune import GRACE, PruneReport, prune
from puller.upkeep.retention.policy import Policy
from tests.lab.history import Backup, Disk, back_up, misleading_index, pack_id_of, wrong_points
from tests.lab.simulated import Process, World

NOW = timedelta(0)
ALL_KEPT = Policy()
FOREIGN = ("packs/README", "packs/00/.hidden", "maps/zz/" + "0" * 32, "condemned/note", "index/notes.txt")


@dataclass
class Scene:
    """``expected`` maps the id of each point to its disk; who commits a point puts it in."""

    world: World
    template: Repository
    expected: dict[str, Disk] = field(default_factory=dict)

    @classmethod
    def new(cls, password: str | None = None) -> Scene:
        world = World()
        secret = None if password is None else Password(password)
        return cls(world, repositories.create(Process(world), secret))

    def copy(self) -> Scene:
        """The same again, in a world of its own."""
        return replace(self, world=self.world.copy(), expected=dict(self.expected))

    def open(self) -> tuple[Process, Repository]:
        """The repository as a process sees it that has just begun."""
        process = Process(self.world)
        return process, Repository(process, self.template.descriptor, self.template.keys)

    def back_up(self, domain: str, disk: Disk, parent: Point | None = None, **more: object) -> Point:
        """Commit a point in a process of its own."""
        before = self.expected[parent.point] if parent else None
        backup = back_up(self.open()[1], domain, disk, parent, before, **more)  # type: ignore[arg-type]
        return self.commit(backup)

    def commit(self, backup: Backup) -> Point:
        self.expected[backup.point.point] = backup.disk
        return backup.commit()

    def delete(self, *points: Point) -> None:
        self.open()[1].points.delete([(point.uuid, point.point) for point in points])
        for point in points:
            del self.expected[point.point]

    def prune(self, grace: timedelta = GRACE, policy: Policy = ALL_KEPT) -> PruneReport:
        return prune(self.open()[1], policy, grace)

    def wait(self, time: timedelta) -> None:
        self.world.advance(time.total_seconds())

    def settle(self) -> None:
        """Let all that may have been left behind expire, and prune until nothing is left to do."""
        self.wait(timedelta(seconds=PENDING_KEPT) + GRACE)
        for _ in range(3):
            self.prune()
            self.wait(GRACE)

    def faults(self) -> list[str]:
        """Points that do not restore, and slots that would mislead the next run."""
        repository = self.open()[1]
        committed = {point_id for _, point_id in repository.points.names()}
        gone = [point for point in self.expected if point not in committed]
        return gone + wrong_points(repository, self.expected) + misleading_index(repository)

    def waste(self) -> list[str]:
        """What a settled repository should not hold, found without prune's own means."""
        repository = self.open()[1]
        live = _reached(repository)
        left = [key for prefix in ("pending/", "locks/") for key in self.world.names(prefix)]
        for pack_id, name, footer in _packs(repository):
            alive = {slot for slot in range(footer.count) if not footer.flags[slot] & DEAD}
            dead = alive - live.get(pack_id, set())
            wasted, total = (int(footer.lengths[sorted(slots)].sum()) for slots in (dead, alive))
            if dead == alive or (wasted >= 65536 and 2 * wasted > total):
                left.append(name)
        return left


def _reached(repository: Repository) -> dict[bytes, set[int]]:
    """Slots by pack id, walked without any of the short cuts that prune takes."""
    found: dict[bytes, set[int]] = {}
    table = repository.maps.table

    def add(refs: Refs) -> None:
        for pack, slot in zip(refs.packs.tolist(), refs.slots.tolist(), strict=True):
            if pack != ZERO:
                found.setdefault(table.pack_id(pack), set()).add(slot)

    for point in repository.points.all():
        for ref in [disk.root for disk in point.disks] + [item.root for item in point.attachments]:
            found.setdefault(ref.address.pack, set()).add(ref.slot)
            root = repository.maps.root(ref.address)
            add(root.pages)
            for refs in repository.maps.pages(root, range(len(root.pages.packs))).values():
                add(refs)
    return found


def _packs(repository: Repository) -> list[tuple[bytes, str, Footer]]:
    kinds = {kind.prefix: kind for kind in PackKind}
    found = []
    for info in repository.objects():
        room, _, _ = info.key.partition("/")
        kind = kinds.get(f"{room}/")
        if kind is not None and info.key not in FOREIGN:
            pack_id = pack_id_of(info.key)
            found.append((pack_id, info.key, repository.packs.open(kind, pack_id).footer))
    return found
