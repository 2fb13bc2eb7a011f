"""A disk read as a whole and compared with its last point: what is equal is found without an index."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks.counting import CountingStore
from puller.errors import Overtaken
from puller.repository import repository as repositories
from puller.repository.collecting.compaction import compact
from puller.repository.format.address import Address
from puller.repository.format.packname import PackKind
from puller.repository.format.pages import ZERO
from puller.repository.keys.key_slots import Password
from puller.repository.reading import parent as module
from puller.repository.reading.packs import PackReader
from puller.repository.records.condemned import CondemnedSlots
from puller.repository.repository import Repository
from puller.units import CHUNK, Extent, Kind
from puller.upkeep.pruning.prune import GRACE
from tests.lab.feed import read_disk, store_disk
from tests.lab.history import back_up
from tests.lab.memory import MemoryStore
from tests.upkeep.scene import Scene
from tests.upkeep.simulation import PAGED

PAGE_CHUNKS = 8
"""Fewer than in earnest, so that small disks have many pages and some windows."""

PAGE = PAGE_CHUNKS * CHUNK


@pytest.fixture(autouse=True)
def _small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PAGED:
        monkeypatch.setattr(f"puller.{name}.PAGE_CHUNKS", PAGE_CHUNKS)


@pytest.fixture
def store() -> CountingStore:
    return CountingStore(MemoryStore())


@pytest.fixture(params=[None, Password("correct horse")], ids=["plain", "encrypted"])
def repository(request: pytest.FixtureRequest, store: CountingStore) -> Repository:
    return repositories.create(store, request.param)


def noise(seed: int, chunks: int) -> bytes:
    return random.Random(seed).randbytes(chunks * CHUNK)


def sparse(pages: dict[int, bytes], count: int) -> bytearray:
    """A disk of ``count`` pages, zero but for the beginnings of some."""
    disk = bytearray(count * PAGE)
    for page, content in pages.items():
        disk[page * PAGE : page * PAGE + len(content)] = content
    return disk


def extents(disk: bytes | bytearray) -> list[Extent]:
    """As a reader announces them: pages that are nothing but zero as such, and the rest as data."""
    found = []
    for start in range(0, len(disk), PAGE):
        content = disk[start : start + PAGE]
        found.append(Extent(start, len(content), Kind.DATA if any(content) else Kind.ZERO))
    return found


def rehash(repository: Repository, disk: bytes | bytearray, parent: Address) -> tuple[Address, int, int]:
    """Compare ``disk`` with ``parent``: the root, and the bytes that were new and stored."""
    root, writer = store_disk(repository, bytes(disk), None, extents(disk), compared=parent)
    return root, writer.new_bytes, writer.stored_bytes


def lose_index(repository: Repository) -> None:
    """In the store and on this host."""
    repository.store.delete([info.key for info in repository.store.list("index/")])
    shutil.rmtree(Path(os.environ["PULLER_CACHE_DIR"]) / repository.id)


def fresh(repository: Repository) -> Repository:
    """As another process sees it."""
    return repositories.Repository(repository.store, repository.descriptor, repository.keys)


def objects(repository: Repository, kind: PackKind) -> list[str]:
    return [info.key for info in repository.store.list(kind.prefix)]


def test_without_an_index_nothing_that_is_equal_is_stored(repository: Repository) -> None:
    """Some windows of pages, a last chunk that is cut, and data that differs between packs."""
    disk = sparse({0: noise(1, 8), 3: noise(2, 5), 17: noise(3, 7), 33: noise(4, 5)}, 34)[: -3 * CHUNK - 7]
    first, _ = store_disk(repository, bytes(disk), None, extents(disk))
    lose_index(repository)
    stored = {info.key for info in repository.objects()}
    assert rehash(fresh(repository), disk, first) == (first, 0, 0)
    assert {info.key for info in repository.objects()} == stored
    assert read_disk(fresh(repository), first) == disk


def test_without_an_index_what_differs_is_stored(repository: Repository) -> None:
    disk = sparse({0: noise(1, 8), 17: noise(3, 7)}, 34)
    first, _ = store_disk(repository, bytes(disk), None, extents(disk))
    lose_index(repository)
    disk[5 * CHUNK : 7 * CHUNK] = noise(7, 2)
    disk[17 * PAGE : 17 * PAGE + CHUNK] = disk[17 * PAGE + CHUNK : 17 * PAGE + 2 * CHUNK]  # out of place
    disk[:CHUNK] = bytes(CHUNK)
    disk[16 * PAGE : 16 * PAGE + CHUNK] = noise(8, 1)  # a page that was zero
    root, new, _ = rehash(fresh(repository), disk, first)
    assert new == 4 * CHUNK
    assert read_disk(fresh(repository), root) == disk


@pytest.mark.parametrize("pages", [1, 5], ids=["shrunk", "grown"])
def test_a_disk_of_another_size(repository: Repository, pages: int) -> None:
    disk = sparse({page: noise(page, 5) for page in range(3)}, 3)[: -3 * CHUNK]
    first, _ = store_disk(repository, bytes(disk), None, extents(disk))
    lose_index(repository)
    resized = disk[: pages * PAGE].ljust(pages * PAGE, b"\0")
    root, new, stored = rehash(fresh(repository), resized, first)
    assert (new, stored > 0) == (0, True)
    assert read_disk(fresh(repository), root) == resized


def test_footers_are_read_once_and_no_pack_is_asked_for(repository: Repository, store: CountingStore) -> None:
    disk = sparse({page: noise(page, 3) for page in range(20)}, 20)
    first, _ = store_disk(repository, bytes(disk), None, extents(disk))
    lose_index(repository)
    process = fresh(repository)
    store.reset()
    rehash(process, disk, first)
    assert store.reads("packs/") == len(objects(repository, PackKind.DATA))


def test_few_windows_are_kept(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WINDOW_PAGES", 1)
    disk = sparse({page: noise(page, 3) for page in range(9)}, 9)
    first, _ = store_disk(repository, bytes(disk), None, extents(disk))
    with repository.run() as run:
        parent = run.disk(len(disk), None, first).parent
        assert parent is not None
        for order in (range(9), range(8, -1, -1)):
            for page in order:
                chunks = np.arange(page * PAGE_CHUNKS, page * PAGE_CHUNKS + 4)
                assert (parent.chunks(chunks).refs.packs != ZERO).tolist() == [True] * 3 + [False]
        assert len(parent._windows) == module._WINDOWS


# --- what cannot be read ----------------------------------------------------------------------


def _flip(repository: Repository, name: str, at: int) -> None:
    body = bytearray(repository.store.get(name))
    body[at] ^= 1
    repository.store.put(name, bytes(body))


def test_where_the_map_is_damaged_the_index_tells(repository: Repository) -> None:
    """Each page in a map pack of its own, of which one is damaged, and the root is sound."""
    disk = sparse({page: noise(page, 3) for page in range(3)}, 3)
    roots: list[Address] = []
    for page in range(3):
        base = roots[-1] if roots else None
        part = [Extent(page * PAGE, 3 * CHUNK, Kind.DATA)]
        roots.append(store_disk(repository, bytes(disk), base, part)[0])
    page_of = repository.maps.root(roots[-1]).pages
    name = PackKind.MAP.object_name(repository.maps.table.pack_id(int(page_of.packs[1])))
    _flip(repository, name, 0)
    indexed, _, stored = rehash(fresh(repository), disk, roots[-1])
    assert 0 < stored < CHUNK, "the damaged page and the root"
    assert read_disk(fresh(repository), indexed) == disk
    lose_index(repository)
    lost, new, _ = rehash(fresh(repository), disk, roots[-1])
    assert new == 3 * CHUNK, "the chunks of the damaged page alone"
    assert read_disk(fresh(repository), lost) == disk


def test_a_root_that_cannot_be_read_leaves_all_to_the_index(repository: Repository) -> None:
    disk = sparse({0: noise(1, 6)}, 1)
    first, _ = store_disk(repository, bytes(disk), None, extents(disk))
    for missing in (Address(bytes(16), 0), Address(first.pack, 60000)):
        assert rehash(fresh(repository), disk, missing) == (first, 0, 0)
    lose_index(repository)
    root, new, _ = rehash(fresh(repository), disk, Address(bytes(16), 0))
    assert new == 6 * CHUNK
    assert read_disk(fresh(repository), root) == disk


def _cut(repository: Repository, name: str) -> None:
    repository.store.put(name, repository.store.get(name)[:-1])


def _delete(repository: Repository, name: str) -> None:
    repository.store.delete([name])


def _record(repository: Repository, name: str) -> None:
    """A check has found it damaged; its footer is sound."""
    repository.damaged.put([bytes.fromhex(name[-32:])])


@pytest.mark.parametrize("befall", [_cut, _delete, _record])
def test_a_damaged_pack_holds_nothing(
    repository: Repository, befall: Callable[[Repository, str], None]
) -> None:
    disk = sparse({0: noise(1, 6), 1: noise(2, 4)}, 2)
    first, _ = store_disk(repository, bytes(disk), None, extents(disk)[:1])
    both, _ = store_disk(repository, bytes(disk), first, extents(disk)[1:])
    name = PackKind.DATA.object_name(repository.maps.table.pack_id(int(_first_chunk(repository, first))))
    befall(repository, name)
    root, new, _ = rehash(fresh(repository), disk, both)
    assert new == 6 * CHUNK
    repository.store.delete([name])
    assert read_disk(fresh(repository), root) == disk


def _first_chunk(repository: Repository, root: Address) -> int:
    pages = repository.maps.pages(repository.maps.root(root), [0])
    return int(pages[0].packs[0])


def test_a_slot_that_was_removed_holds_nothing(repository: Repository) -> None:
    disk = sparse({0: noise(1, 6)}, 1)
    first, _ = store_disk(repository, bytes(disk), None, extents(disk))
    (name,) = objects(repository, PackKind.DATA)
    reader = PackReader(repository.store, repository.keys)
    pack = reader.open(PackKind.DATA, bytes.fromhex(name[-32:]))
    compact(repository.store, repository.keys, reader, pack, 0b1010)
    repository.store.delete([name])
    lose_index(repository)
    root, new, _ = rehash(repository, disk, first)
    assert new == 2 * CHUNK
    assert read_disk(fresh(repository), root) == disk


# --- beside a prune ---------------------------------------------------------------------------


def test_what_is_condemned_is_not_referred_to() -> None:
    scene = Scene.new()
    first = scene.back_up("a", [1, 2, 3, 4])
    repository = scene.open()[1]
    (name,) = objects(repository, PackKind.DATA)
    condemned = CondemnedSlots(PackKind.DATA, 0b0110)
    repository.condemned.put(final=True, grace=0.0, packs={bytes.fromhex(name[-32:]): condemned})
    backup = back_up(scene.open()[1], "a", [1, 2, 3, 4], compared=first)
    assert backup.point.disks[0].new_bytes == 2 * CHUNK
    scene.commit(backup)
    assert scene.faults() == []


def _parent_removed_during_a_rehash(*, prune: bool) -> tuple[Scene, bool]:
    scene = Scene.new()
    first = scene.back_up("a", [1, 2, 3, 4])
    scene.wait(GRACE)
    backup = back_up(scene.open()[1], "a", [1, 2, 3, 5], title="new", compared=first)
    scene.delete(first)
    if prune:  # what the run wrote is too young for the first, and condemned by the second only
        scene.prune()
        scene.wait(GRACE)
        scene.prune()
    try:
        scene.commit(backup)
    except Overtaken:
        del scene.expected[backup.point.point]
        return scene, False
    return scene, True


def test_a_parent_that_is_deleted_meanwhile_is_not_needed() -> None:
    """Until prune condemns what only it reached: then the run can be repeated."""
    for prune in (False, True):
        scene, committed = _parent_removed_during_a_rehash(prune=prune)
        assert committed is not prune
        scene.settle()
        assert scene.faults() == scene.waste() == []


def test_what_is_not_held_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test before, with a run that does not hold what it finds."""
    monkeypatch.setattr("puller.repository.writing.claims.Claims.admit", lambda _, packs, slots: packs)
    scene, committed = _parent_removed_during_a_rehash(prune=True)
    assert committed
    assert scene.faults() != []
