"""Mutated repositories: whatever is stored, readers answer rightly or with a documented error.

python -m tests.fuzz --mutations 100000 --seed 1
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from puller.cli.output.results.records import description, full_record, listing
from puller.cli.output.times import local
from puller.errors import PullerError, RepositoryError, UsageError
from puller.events import ignore
from puller.repository import repository as repositories
from puller.repository.collecting.disposal import Disposal
from puller.repository.collecting.lease import Lease
from puller.repository.format.bits import column_of
from puller.repository.format.index import place_of
from puller.repository.format.packname import PackKind
from puller.repository.keys import key_slots as slots
from puller.repository.keys.key_slots import BACKUP_ONLY, KeyFile, Password, Secret
from puller.repository.reading.image import DiskImage
from puller.repository.reading.indexes import list_index, read_index
from puller.repository.records.condemned import CondemnedSlots, union
from puller.repository.records.kept import Keep
from puller.repository.records.proofs import Proof, superfluous
from puller.repository.records.verified import VerifiedPack, tidy
from puller.repository.repository import Repository
from puller.repository.writing.claims import Claims
from puller.units import GIB
from puller.upkeep.checking.check import check
from puller.upkeep.checking.schedule import Reading
from puller.upkeep.keys import list_keys
from puller.upkeep.pruning.prune import preview, prune
from puller.upkeep.pruning.reachability import Reachability
from puller.upkeep.repair import repair_index
from puller.upkeep.retention.delete import delete
from puller.upkeep.retention.keep import release
from puller.upkeep.retention.policy import Policy
from tests.lab.history import attached, back_up, content, pack_id_of
from tests.lab.memory import MemoryStore
from tests.mutation import BOX_KINDS, mutate, mutate_json, reseal_box, reseal_index, reseal_pack

ADDRESS_SPACE = 2 * GIB
CASE_SECONDS = 20
_KEY_FILE, _PASSWORD = KeyFile(bytes(range(64))), Password("correct horse")
_HISTORY = {"a": [1, 2, 0, 3], "b": [3, 0, 4]}
_PACK_KINDS = {kind.prefix: kind for kind in PackKind}
_NOW = datetime(2026, 11, 24, tzinfo=UTC)
_FOLDERS = (
    "packs/",
    "maps/",
    "index/",
    "points/",
    "pending/",
    "condemned/",
    "damaged/",
    "verified/",
    "kept/",
    "proofs/",
    "locks/",
    "keys/",
    "",
)


class Hang(BaseException):
    """A case has taken longer than any should."""


@dataclass
class Target:
    """A repository in memory with an object of every kind; ``expected`` are the disks by point."""

    store: MemoryStore
    template: Repository
    secret: Secret | None
    objects: dict[str, bytes] = field(default_factory=dict)
    expected: dict[str, bytes] = field(default_factory=dict)

    @classmethod
    def make(cls, secret: Secret | None) -> Target:
        store = MemoryStore()
        target = cls(store, repositories.create(store, secret), secret)
        target._fill()
        target.objects = {info.key: store.get(info.key) for info in store.list("")}
        return target

    def open(self) -> Repository:
        return Repository(self.store, self.template.descriptor, self.template.keys)

    def _fill(self) -> None:
        repository, store = self.open(), self.store
        gone = back_up(repository, "a", [1, 5, 6, 7, 8]).commit()
        for domain, disk in _HISTORY.items():
            self.expected[back_up(repository, domain, disk).commit().point] = content(disk)
        repository.points.delete([(gone.uuid, gone.point)])
        prune(self.open(), Policy(), timedelta(0))  # leaves dead slots and a final record
        waiting = {
            bytes(range(16)): CondemnedSlots(PackKind.DATA, 5),
            bytes(16): CondemnedSlots(PackKind.MAP, -1),
        }
        repository.condemned.put(False, 86400.0, waiting)
        repository.pending.put(repository.points.all()[0])
        repository.damaged.put([bytes(range(16)), bytes(16)])
        repository.verified.put([VerifiedPack(bytes(16), 0), VerifiedPack(bytes(range(16)), 3, 1.5)])
        for point in repository.points.all():
            repository.keeps.put((point.uuid, point.point), Keep(_NOW + timedelta(days=36500), "of the lab"))
            repository.proofs.put((point.uuid, point.point), Proof(_NOW, "proven", "a", "lab", "agent", 3.5))
        lock = f"locks/prune/{'0' * 32}-00000000"
        holder = msgspec.json.encode({"host": "lab", "process": 1})
        store.put(lock, repository.keys.boxes().pack(BOX_KINDS["locks/"], lock, holder))
        if self.secret is not None:
            opened = slots.open_slot(
                store, repository.keys.repository_id, repository.keys.repository_id, self.secret
            )
            slots.add_slot(store, opened, KeyFile(bytes(64)), BACKUP_ONLY, "host")
            _put_cheap_slot(store, opened)

    @contextmanager
    def having(self, name: str, body: bytes | None) -> Iterator[Repository]:
        """The repository with one object changed, or gone; afterwards all is as it was."""
        if body is None:
            self.store.delete([name])
        else:
            self.store.put(name, body)
        try:
            yield self.open()
        finally:
            for info in list(self.store.list("")):
                if info.key not in self.objects:
                    self.store.delete([info.key])
            stored = {info.key: info for info in self.store.list("")}
            for key, old in self.objects.items():
                if key not in stored or key == name or self.store.get(key) != old:
                    self.store.put(key, old)


def _put_cheap_slot(store: MemoryStore, opened: slots.Opened) -> None:
    """A password slot that does not cost 64 MiB each time that it is tried."""
    kdf, nonce = slots.Kdf(salt="00" * 16, memory_kib=32, iterations=1, lanes=1), bytes(12)
    aad = b"puller slot" + opened.repository_id + opened.role.encode()
    sealed = AESGCM(_PASSWORD.key(kdf)).encrypt(nonce, opened.content, aad)
    slot = slots.KeySlot(
        opened.repository_id.hex(), "password", opened.role, kdf, nonce.hex(), sealed.hex(), _NOW
    )
    store.put(f"keys/{'0' * 16}", msgspec.json.encode(slot))


@dataclass(frozen=True)
class Case:
    """One mutated object. ``sealed`` if somebody changed it who holds the keys."""

    target: Target
    name: str
    body: bytes | None
    sealed: bool
    seed: str

    @property
    def folder(self) -> str:
        """The kind of object."""
        return self.name.partition("/")[0] + "/" if "/" in self.name else ""


def draw(targets: Sequence[Target], seed: str) -> Case:
    rng = random.Random(seed)
    target = rng.choice(targets)
    folder = rng.choice(_FOLDERS)
    names = sorted(
        (name for name in target.objects if (name.startswith(folder) if folder else "/" not in name)),
        key=lambda name: (len(target.objects[name]), name),
    )
    if not names:
        return draw(targets, f"{seed}+")
    name = rng.choice(names)
    old, other = target.objects[name], target.objects[rng.choice(names)]
    keys = target.template.keys
    sealed = rng.random() < 0.6 and folder not in ("", "keys/")
    if rng.random() < 0.01:
        return Case(target, name, None, False, seed)
    if not sealed:
        plain = folder in ("", "keys/")
        body = (mutate_json if plain else mutate)(rng, old, other)
    elif folder in _PACK_KINDS:
        body = reseal_pack(rng, keys, _PACK_KINDS[folder], pack_id_of(name), old)
    elif folder == "index/":
        body = reseal_index(rng, keys, name, old)
    else:
        body = reseal_box(rng, keys, name, old, other)
    return Case(target, name, body, sealed, seed)


def examine(case: Case) -> Counter[str]:
    """Let all who read such an object read it. Raises what no reader may raise."""
    outcomes: Counter[str] = Counter()
    with case.target.having(case.name, case.body) as repository:
        for reader in _READERS[case.folder]:
            try:
                reader(case, repository)
                outcomes["answered"] += 1
            except (RepositoryError, UsageError) as error:  # a usage error: the last key is not removed
                outcomes[type(error).__name__] += 1
    return outcomes


def _read_points(case: Case, repository: Repository) -> None:
    for point in repository.points.all(lambda name, error: None):
        listing([point], _NOW), description(point, _NOW), full_record(point)
        wanted = [(disk.root, case.target.expected[point.point]) for disk in point.disks]
        wanted += [(item.root, attached(point.domain, "")) for item in point.attachments]
        for ref, expected in wanted:
            _read_disk(case, repository, ref.address, expected)


def _read_disk(case: Case, repository: Repository, address: object, expected: bytes) -> None:
    try:
        image = DiskImage(repository.maps, repository.packs, address)  # type: ignore[arg-type]
    except PullerError as error:
        assert isinstance(error, RepositoryError), error
        return
    for window in image.windows():
        for offset, length in window.gaps():
            assert case.sealed or window.damage or not any(expected[offset : offset + length])
        for job in window.jobs:
            for item in image.read(job):
                if isinstance(item, tuple) and not case.sealed:
                    assert expected[item[0] : item[0] + len(item[1])] == item[1], "a wrong chunk was answered"


def _list_points(case: Case, repository: Repository) -> None:
    repository.points.all()
    repository.points.select("a@latest")


def _preview(case: Case, repository: Repository) -> None:
    preview(repository, Policy(last=1))


def _check(case: Case, repository: Repository) -> None:
    check(repository, (), Reading(100.0), ignore)


def _prune(case: Case, repository: Repository) -> None:
    repository.store.delete([info.key for info in repository.store.list("locks/")])
    prune(repository, Policy(), timedelta(0))
    if not case.sealed and case.folder not in ("packs/", "maps/", "points/"):
        assert check(case.target.open(), (), Reading(100.0), ignore).errors == (), "prune has hurt a point"


def _repair(case: Case, repository: Repository) -> None:
    repository.store.delete([info.key for info in repository.store.list("locks/")])
    repair_index(repository)


def _read_index(case: Case, repository: Repository) -> None:
    list(repository.indexed())
    for info in list_index(repository.store):
        for share in (0.0, 0.1, 1.0):
            part = read_index(repository.store, repository.keys, info, share)
            assert part is None or (place_of(part.rows) < len(part.packs)).all()


def _run(case: Case, repository: Repository) -> None:
    backup = back_up(repository, "c", [1, 9])
    if not case.sealed:
        backup.commit()


def _rehash(case: Case, repository: Repository) -> None:
    for point in repository.points.all(lambda name, error: None):
        if point.point in case.target.expected and point.disks and point.domain in _HISTORY:
            backup = back_up(repository, "c", _HISTORY[point.domain], compared=point)
            root = backup.point.disks[0].root.address
            _read_disk(case, repository, root, case.target.expected[point.point])


def _read_pending(case: Case, repository: Repository) -> None:
    for item in repository.pending.listed():
        repository.pending.get(item.uuid, item.point)
    Reachability(repository, Disposal(), lambda: None).add_new(time.time())


def _read_condemned(case: Case, repository: Repository) -> None:
    records = repository.condemned.read(repository.condemned.listed())
    for sentence in union(record.packs for record in records).values():
        column_of(sentence.slots, 65536)
    Claims(repository.condemned, repository.maps.table).require_standing(time.time)


def _read_damaged(case: Case, repository: Repository) -> None:
    for record in repository.damaged.read():
        assert all(len(pack) == 16 for pack in record.packs)


def _read_verified(case: Case, repository: Repository) -> None:
    records = repository.verified.read(repository.verified.listed())
    assert all(len(pack.pack_id) == 16 for record in records for pack in record.packs)
    tidy(records, lambda pack: pack.generation == 0)


def _read_keeps(case: Case, repository: Repository) -> None:
    """Whatever has become of a keep, its point stays, unless the keys were used to end it."""
    keeps = repository.keeps.holding(_NOW)
    points = repository.points.all()
    listing(points, _NOW, keeps)
    for point in points:
        keep = keeps.get((point.uuid, point.point))
        description(point, _NOW, keep), full_record(point, keep)
        assert keep or case.sealed or case.body is None


def _read_proofs(case: Case, repository: Repository) -> None:
    """Whatever has become of a proof, all points are listed, and it says nothing that nobody has sealed."""
    proofs = repository.proofs.newest()
    points = repository.points.all()
    listing(points, _NOW, proofs=proofs)
    for point in points:
        proof = proofs.get((point.uuid, point.point))
        description(point, _NOW, proof=proof), full_record(point, proof=proof)
        assert case.sealed or proof is None or proof.host == "lab"
    repository.proofs.newest_of_domains(), repository.proofs.times()
    assert superfluous(repository.proofs.listed(), repository.points.names()) == []


def _release(case: Case, repository: Repository) -> None:
    for uuid, point in repository.points.names():
        release(repository, point)
        assert repository.keeps.listed(uuid, point) == []
    delete(repository, [point for _, point in repository.points.names()])


def _lease(case: Case, repository: Repository) -> None:
    with Lease.take(repository.store, repository.keys.boxes(), "prune"):
        pass


def _open(case: Case, repository: Repository) -> None:
    opened = repositories.open_repository(repository.store, case.target.secret)
    _read_points(case, opened)


def _open_with_password(case: Case, repository: Repository) -> None:
    identity = repository.keys.repository_id
    slots.open_slot(repository.store, identity, identity, _PASSWORD)


def _list_slots(case: Case, repository: Repository) -> None:
    for key in list_keys(repository, None):
        if key.created is not None:
            local(key.created)


def _remove_slot(case: Case, repository: Repository) -> None:
    slots.remove_slot(repository.store, repository.descriptor.id_bytes, "0" * 16)


def _sometimes(
    share: float, reader: Callable[[Case, Repository], None]
) -> Callable[[Case, Repository], None]:
    """The same reader, in a share of the cases: some cost many times what the others do."""

    def read(case: Case, repository: Repository) -> None:
        if random.Random(f"{case.seed} {reader.__name__}").random() < share:
            reader(case, repository)

    return read


_ALL = [_sometimes(0.05, reader) for reader in (_check, _prune, _repair, _run, _rehash)]
_READERS: dict[str, list[Callable[[Case, Repository], None]]] = {
    "packs/": [_read_points, *_ALL],
    "maps/": [_read_points, *_ALL],
    "points/": [_read_points, _list_points, _preview, *_ALL],
    "index/": [_read_index, *_ALL],
    "pending/": [_read_pending, *_ALL],
    "condemned/": [_read_condemned, *_ALL],
    "damaged/": [_read_damaged, *_ALL],
    "verified/": [_read_verified, *_ALL],
    "kept/": [_read_keeps, _preview, _release, *_ALL],
    "proofs/": [_read_proofs, *_ALL],
    "locks/": [_lease, *_ALL],
    "keys/": [_open, _open_with_password, _list_slots, _remove_slot],
    "": [_open],
}


def make_targets() -> list[Target]:
    """One without encryption, one with."""
    return [Target.make(None), Target.make(_KEY_FILE)]


def hang(*_: object) -> None:
    """For the signal SIGALRM."""
    raise Hang(f"a case took more than {CASE_SECONDS} s")


def _report(case: Case, folder: Path) -> None:
    path = folder / f"fuzz-{case.seed.replace(':', '-')}"
    path.write_bytes(case.body or b"")
    sys.stdout.write(f"\n{case.seed}: {case.name} (behind the seal: {case.sealed}), kept as {path}\n")
    traceback.print_exc(file=sys.stdout)


def main(arguments: Sequence[str]) -> int:
    """Run many cases; print what they came to. Returns 1 if a reader did what it must not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutations", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first mutation of this seed")
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()), help="folder for findings")
    given = parser.parse_args(arguments)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    signal.signal(signal.SIGALRM, hang)
    outcomes: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    failures, began = 0, time.monotonic()
    with tempfile.TemporaryDirectory(prefix="puller-fuzz-") as cache:
        os.environ["PULLER_CACHE_DIR"] = cache
        targets = make_targets()
        for number in range(given.first, given.first + given.mutations):
            case = draw(targets, f"{given.seed}:{number}")
            kinds[f"{case.folder or 'repository.json'} {'behind the seal' if case.sealed else 'raw'}"] += 1
            signal.alarm(CASE_SECONDS)
            try:
                outcomes += examine(case)
            except (Exception, Hang):  # noqa: BLE001 - whatever it is, it is the finding
                failures += 1
                _report(case, given.keep)
            finally:
                signal.alarm(0)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    took = time.monotonic() - began
    lines = [f"{given.mutations} mutations, {failures} failures, {took:.0f} s, {peak} MiB at most"]
    lines += [", ".join(f"{name}: {count}" for name, count in sorted(it.items())) for it in (kinds, outcomes)]
    sys.stdout.write("\n".join(lines) + "\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
