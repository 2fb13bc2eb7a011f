"""Copies between repositories of one family: chunks travel as they are sealed, also with backup-only keys."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

import puller
from puller.errors import DamagedData, KeyNotHeld, UsageError, WrongKey
from puller.events import ignore
from puller.repository.collecting.compaction import compact
from puller.repository.format import descriptor as descriptors
from puller.repository.format.chunk_slot import content_id
from puller.repository.format.footer import SealedPack
from puller.repository.format.packname import parse_pack_name
from puller.repository.keys.key_slots import BACKUP_ONLY, KeyFile, Password, Secret
from puller.repository.points import Point
from puller.repository.reading.packs import StoredPack, merge
from puller.repository.repository import Repository, create, family_of, open_repository
from puller.store.directory.folder import FolderStore
from puller.units import CHUNK, MIB
from puller.upkeep.copying.copy import CopyReport, copy
from puller.upkeep.keys import add_key
from puller.upkeep.pruning.prune import prune
from puller.upkeep.retention.policy import Policy
from tests.lab.archive import make_point
from tests.lab.feed import SMALL, read_disk
from tests.lab.history import MOMENT, Disk, back_up, content, is_whole
from tests.upkeep.copies import Counted

HOUR = timedelta(hours=1)
HERE, THERE, HOST = Password("here"), KeyFile(b"t" * 32), KeyFile(b"b" * 32)
STRANGER = Path(__file__).parent.parent / "stranger.py"


@pytest.fixture(scope="module", autouse=True)
def small_packs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Packs that hold many chunks, and several of which a disk needs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("puller.repository.writing.run.DATA_PACK", 3 * MIB)
        patch.setenv("PULLER_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


class Kin:
    """Two repositories of one family in folders; each has a full key and a backup-only key of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.here_store = Counted(FolderStore(folder / "here"))
        self.there_store = Counted(FolderStore(folder / "there"))
        here = create(self.here_store, HERE)
        there = create(self.there_store, THERE, family=family_of(here, HERE))
        add_key(here, HERE, HOST, BACKUP_ONLY, "host")
        add_key(there, THERE, HOST, BACKUP_ONLY, "host")

    def here(self, secret: Secret = HERE) -> Repository:
        return open_repository(self.here_store, secret)

    def there(self, secret: Secret = THERE) -> Repository:
        return open_repository(self.there_store, secret)

    def copy(self, *points: Point, secret: Secret | None = None) -> CopyReport:
        here, there = self.here(secret or HERE), self.there(secret or THERE)
        return copy(here, there, points, SMALL, None, ignore)

    def stranger(self, point: Point) -> bytes:
        """The disk, as the independent reader restores it from the third repository."""
        output = self.folder / "stranger.raw"
        words = [str(self.folder / "third"), point.uuid, point.point, "vda", str(output)]
        environment = os.environ | {"PULLER_PASSWORD": "third"}
        subprocess.run([sys.executable, str(STRANGER), *words], check=True, env=environment)
        return output.read_bytes()


@pytest.fixture
def kin(tmp_path: Path) -> Kin:
    return Kin(tmp_path)


def _history(repository: Repository) -> list[tuple[Point, Disk]]:
    disk = list(range(1, 41))
    changed = [500, *disk[1:20], 0, *disk[21:]]
    first = back_up(repository, "a", disk, moment=MOMENT).commit()
    second = back_up(repository, "a", changed, first, disk, moment=MOMENT + HOUR).commit()
    return [(first, disk), (second, changed)]


def _packs(repository: Repository) -> list[StoredPack]:
    names = (parse_pack_name(info.key) for info in repository.store.list("packs/"))
    return [repository.packs.load(*name) for name in names if name is not None]


def _origins(pack: StoredPack) -> tuple[SealedPack, ...]:
    return () if pack.footer.origins is None else pack.footer.origins.packs


def _slots(repository: Repository) -> dict[bytes, bytes]:
    """The stored bytes of all chunks, by the id of their content."""
    found = {}
    for pack in _packs(repository):
        for span, stored in repository.packs.fetch(pack, list(merge(pack.footer, range(pack.footer.count)))):
            for slot in span.slots:
                start = int(pack.footer.offsets[slot]) - span.offset
                found[pack.footer.slot_id(slot)] = bytes(stored[start:][: int(pack.footer.lengths[slot])])
    return found


def _check(repository: Repository) -> None:
    assert puller.check(repository, read_data=100.0).errors == ()


@pytest.mark.parametrize("secret", [None, HOST])
def test_chunks_travel_as_they_are_sealed(kin: Kin, secret: Secret | None) -> None:
    made = _history(kin.here())
    report = kin.copy(*(point for point, _ in made), secret=secret)
    assert [item.chunks_sent for item in report.copied] == [41, 1]
    there = kin.there()
    assert there.id != kin.here().id
    assert _slots(there) == _slots(kin.here())
    assert all(is_whole(there, there.points.get(p.uuid, p.point), disk) for p, disk in made)
    _check(there)


def test_a_backup_only_key_needs_a_repository_of_the_family(kin: Kin, tmp_path: Path) -> None:
    (first, _), _ = _history(kin.here())
    other = create(FolderStore(tmp_path / "other"), THERE)
    with pytest.raises(KeyNotHeld, match="another master secret"):
        copy(kin.here(HOST), other, [first], SMALL, None, ignore)
    assert other.points.names() == []


def test_what_the_target_has_is_not_read_in_the_source(kin: Kin) -> None:
    """Ids are equal, so a chunk is looked up before it is read: footers only."""
    made = _history(kin.here())
    kin.copy(made[0][0])
    again = back_up(kin.here(), "b", made[0][1], title="1", moment=MOMENT + HOUR).commit()
    source, target = kin.here(), kin.there()
    kin.here_store.asked.clear()
    (done,) = copy(source, target, [again], SMALL, None, ignore).copied
    assert done.chunks_sent == 1  # the attachment
    packs = sum(1 for _ in source.store.list("packs/"))
    assert kin.here_store.asked.count("get packs") <= packs


def test_a_copy_of_a_copy_and_the_independent_reader(kin: Kin, tmp_path: Path) -> None:
    """The third repository names the first one's packs as origins. Prune has compacted packs on the way."""
    made = _history(kin.here())
    kin.copy(*(point for point, _ in made), secret=HOST)
    kin.there().points.delete([(made[0][0].uuid, made[0][0].point)])
    there = kin.there(HOST)
    _compact(there)
    family = family_of(kin.there(), THERE)
    third = create(FolderStore(tmp_path / "third"), Password("third"), family=family)
    point, disk = made[1]
    found = there.points.get(point.uuid, point.point)
    (done,) = copy(there, third, [found], SMALL, None, ignore).copied
    assert done.chunks_sent == 40
    here = {pack.pack_id for pack in _packs(kin.here())}
    origins = {item.pack_id for pack in _packs(third) for item in _origins(pack)}
    assert origins
    assert origins <= here
    _check(kin.there())
    _check(third)
    assert kin.stranger(point) == content(disk)


def _compact(repository: Repository) -> None:
    """Remove the first chunk of the first point, which the second one does not reach."""
    gone = content_id(repository.keys.id_key, content([1]))
    for pack in _packs(repository):
        ids = [pack.footer.slot_id(slot) for slot in range(pack.footer.count)]
        if gone in ids and len(ids) > 1:
            compact(repository.store, repository.keys, repository.packs, pack, 1 << ids.index(gone))
            repository.store.delete([pack.name])
            return
    raise AssertionError("no pack has the chunk")


def test_prune_of_the_target_compacts_what_was_sealed_elsewhere(kin: Kin) -> None:
    disk: Disk = list(range(1, 201))
    kept: Disk = [seed if seed % 4 == 0 else 0 for seed in disk]
    first = back_up(kin.here(), "a", disk, moment=MOMENT).commit()
    second = back_up(kin.here(), "a", kept, first, disk, moment=MOMENT + HOUR).commit()
    kin.copy(first, second, secret=HOST)
    report = prune(kin.there(HOST), Policy(last=1), timedelta(0), ignore)
    assert report.packs_compacted
    there = kin.there()
    assert is_whole(there, there.points.get(second.uuid, second.point), kept)
    _check(there)


def test_chunks_of_more_packs_than_one_pack_can_name(kin: Kin, monkeypatch: pytest.MonkeyPatch) -> None:
    most, count = 8, 20
    monkeypatch.setattr("puller.repository.writing.packing.MAX_ORIGINS", most)
    here = kin.here()
    data = os.urandom(count * CHUNK)
    for number in range(count):
        with here.run(SMALL) as run:
            run.attach(data[number * CHUNK : (number + 1) * CHUNK])
            run.flush()
    point = make_point(kin.here(), {"vda": data})
    (done,) = kin.copy(point, secret=HOST).copied
    assert done.chunks_sent == count + 1
    there = kin.there()
    assert [len(_origins(pack)) <= most for pack in _packs(there)] == [True] * 3
    assert read_disk(there, there.points.get(point.uuid, point.point).disks[0].root.address) == data


def test_a_damaged_chunk_is_refused_by_whoever_can_open_it(kin: Kin) -> None:
    (first, _), _ = _history(kin.here())
    _spoil_largest(kin.folder / "here/packs")
    report = kin.copy(first)
    assert [(point, type(error)) for point, error in report.failed] == [(first.point, DamagedData)]
    assert kin.there().points.names() == []


def test_damage_that_a_backup_only_key_cannot_see_is_found_in_the_target(kin: Kin) -> None:
    (first, _), _ = _history(kin.here())
    _spoil_largest(kin.folder / "here/packs")
    assert not kin.copy(first, secret=HOST).failed
    assert puller.check(kin.there(), read_data=100.0).errors


def test_damage_that_a_check_has_recorded_is_refused_by_every_key(kin: Kin) -> None:
    (first, _), _ = _history(kin.here())
    _spoil_largest(kin.folder / "here/packs")
    assert puller.check(kin.here(), read_data=100.0).errors
    report = kin.copy(first, secret=HOST)
    assert [(point, type(error)) for point, error in report.failed] == [(first.point, DamagedData)]
    assert kin.there().points.names() == []


def _spoil_largest(folder: Path) -> None:
    """Flip a bit of a chunk in the pack of the disk."""
    pack = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    spoilt = bytearray(pack.read_bytes())
    spoilt[100] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(spoilt)


def test_repositories_without_encryption_can_be_of_one_family(tmp_path: Path) -> None:
    here = create(FolderStore(tmp_path / "here"), None)
    there = create(FolderStore(tmp_path / "there"), None, family=family_of(here, None))
    made = _history(here)
    copy(here, there, [point for point, _ in made], SMALL, None, ignore)
    assert _slots(there) == _slots(here)
    assert all(is_whole(there, there.points.get(p.uuid, p.point), disk) for p, disk in made)
    _check(open_repository(FolderStore(tmp_path / "there"), None))


def test_a_forged_family_opens_nothing(kin: Kin) -> None:
    store = FolderStore(kin.folder / "there")
    descriptor = descriptors.load(store)
    store.delete([descriptors.NAME])
    descriptors.save(store, msgspec.structs.replace(descriptor, family="f" * 32))
    with pytest.raises(WrongKey):
        open_repository(store, THERE)


Creation = Callable[[Repository, str], object]

REFUSED: dict[str, tuple[type[Exception], Creation]] = {
    "a backup-only key": (
        KeyNotHeld,
        lambda like, url: puller.create_repository(url, password="x", like=like, like_key_file=b"b" * 32),
    ),
    "a wrong password": (
        WrongKey,
        lambda like, url: puller.create_repository(url, password="x", like=like),
    ),
    "no encryption": (UsageError, lambda like, url: puller.create_repository(url, like=like)),
}


@pytest.mark.parametrize("case", REFUSED)
def test_no_repository_is_made_without_a_full_key_of_the_other(kin: Kin, tmp_path: Path, case: str) -> None:
    error, make = REFUSED[case]
    with pytest.raises(error):
        make(kin.here(), str(tmp_path / "new"))
    assert not (tmp_path / "new").exists() or not list((tmp_path / "new").rglob("repository.json"))


def test_the_command_line_makes_a_repository_of_the_family(tmp_path: Path) -> None:
    def run(*words: str, password: str) -> str:
        environment = os.environ | {"PULLER_PASSWORD": password}
        command = [sys.executable, "-m", "puller.cli", *words]
        return subprocess.run(command, check=True, env=environment, capture_output=True, text=True).stdout

    (tmp_path / "one").write_text("one\n")
    here, there = str(tmp_path / "here"), str(tmp_path / "there")
    run("init", "-r", here, password="one")
    run("init", "-r", there, "--like", here, "--like-password-file", str(tmp_path / "one"), password="two")
    first, second = (
        puller.open_repository(here, password="one"),
        puller.open_repository(there, password="two"),
    )
    assert first.keys.seals_like(second.keys)
    assert first.id != second.id
    with pytest.raises(WrongKey):
        puller.open_repository(there, password="one")
    assert replace(first.keys, repository_id=second.keys.repository_id) == second.keys
