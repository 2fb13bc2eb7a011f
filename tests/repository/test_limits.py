"""The limits that docs/format.md names, held at their ends without disks of that size."""

from __future__ import annotations

import random
import struct
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np
import pytest

from puller.errors import DamagedData, UnsupportedDisk, UsageError
from puller.repository import points
from puller.repository import repository as repositories
from puller.repository.format import index
from puller.repository.format.footer import (
    FOOTER_LIMIT,
    MAX_SLOTS,
    PACK_LIMIT,
    TRAILER,
    Footer,
    decode_footer,
    decode_trailer,
    encode_tail,
)
from puller.repository.format.index import IndexedPack
from puller.repository.format.packname import ID, PackKind
from puller.repository.format.pages import (
    LARGEST_DISK,
    PackTable,
    Refs,
    Root,
    decode_page,
    decode_root,
    encode_page,
    encode_root,
)
from puller.repository.keys.key_slots import Password, list_slots
from puller.repository.keys.keyring import NO_KEY_BOX, KeyRing
from puller.repository.points import Point
from puller.repository.records.kept import Keep
from puller.repository.repository import Repository
from puller.repository.writing import run as runs
from puller.repository.writing.packing import TAIL_ROOM
from puller.units import CHUNK, MIB, PAGE_CHUNKS, TIB, Extent, Kind, page_count
from puller.upkeep.retention.keep import keep
from tests.lab.feed import SMALL
from tests.lab.memory import MemoryStore

PLAIN = KeyRing.unencrypted(bytes(16), bytes(16))
UUID = "1f80ae13-49df-4e30-9b5a-d185a32acbbc"
NOW = datetime(2026, 11, 28, 18, 0, tzinfo=UTC)


class Counted(PackTable):
    """A table whose pack ids are their numbers, so that four million of them take no memory."""

    def number(self, pack_id: bytes) -> int:
        return int.from_bytes(pack_id, "little")

    def pack_id(self, number: int) -> bytes:
        return number.to_bytes(ID, "little")


@pytest.fixture(params=[None, Password("correct horse")], ids=["plain", "encrypted"])
def repository(request: pytest.FixtureRequest) -> Repository:
    return repositories.create(MemoryStore(), request.param)


def _spread(size: int, pages_per_pack: int) -> Refs:
    """The pages of a disk of ``size`` bytes, so many of them in each map pack."""
    number = np.arange(page_count(size))
    return Refs(number // pages_per_pack, (number % pages_per_pack).astype(np.uint16))


def _scattered(count: int) -> Refs:
    """``count`` references to the first or last slot of packs of their own."""
    return Refs(np.arange(count), np.where(np.arange(count) % 2, MAX_SLOTS - 1, 0).astype(np.uint16))


def _is_equal(some: Refs, others: Refs) -> bool:
    return bool((some.packs == others.packs).all() and (some.slots == others.slots).all())


# --- disks and their maps ---------------------------------------------------------------------


def test_a_page_of_1024_packs() -> None:
    refs = _scattered(PAGE_CHUNKS)
    content = encode_page(refs, Counted())
    assert len(content) == 20488
    assert _is_equal(decode_page(content, Counted(), PAGE_CHUNKS), refs)


def test_the_largest_disk_has_a_root_that_fits() -> None:
    """Each page in a pack of its own, which is the most that a root can take."""
    assert LARGEST_DISK == 256 * TIB
    refs = _spread(LARGEST_DISK, 1)
    content = encode_root(Root(LARGEST_DISK, refs), Counted())
    assert len(content) == 92274704 <= PackKind.MAP.content_limit
    root = decode_root(content, Counted())
    assert root.size == LARGEST_DISK
    assert _is_equal(root.pages, refs)


def test_a_run_stores_the_root_of_the_largest_disk(repository: Repository) -> None:
    """Of a disk whose map lies in 16384 packs: the root takes 25 MiB, more than a pack."""
    table = repository.maps.table
    numbers = np.array([table.number(number.to_bytes(ID, "little")) for number in range(16384)])
    refs = _spread(LARGEST_DISK, page_count(LARGEST_DISK) // len(numbers))
    with repository.run(SMALL) as run:
        writer = run.disk(LARGEST_DISK, None)
        writer.map._pages.packs[:], writer.map._pages.slots[:] = numbers[refs.packs], refs.slots
        address = writer.finish()
        run.flush()
    assert len(list(repository.store.list("maps/"))) == 1
    root = repository.maps.root(address)
    assert root.size == LARGEST_DISK
    assert _is_equal(root.pages, Refs(numbers[refs.packs], refs.slots))


def test_a_disk_with_each_chunk_in_another_pack(repository: Repository) -> None:
    """Its pages take more than a map pack, and are written as they get ready."""
    table, pages, rng = repository.maps.table, 600, random.Random(5)
    numbers = np.array([table.number(rng.randbytes(ID)) for _ in range(pages * PAGE_CHUNKS)])
    slots = _scattered(len(numbers)).slots
    with repository.run(SMALL) as run:
        writer = run.disk(len(numbers) * CHUNK, None)
        writer.announce(Extent(0, len(numbers) * CHUNK, Kind.DATA))
        for start in range(0, len(numbers), 5000):
            part = slice(start, start + 5000)
            writer.map.place(np.arange(len(numbers))[part], numbers[part], slots[part])
        address = writer.finish()
        run.flush()
    assert len(list(repository.store.list("maps/"))) == 2
    root = repository.maps.root(address)
    found = repository.maps.pages(root, range(pages))
    assert (np.concatenate([found[page].packs for page in range(pages)]) == numbers).all()
    assert (np.concatenate([found[page].slots for page in range(pages)]) == slots).all()


def test_a_disk_that_a_map_cannot_describe_is_refused_at_once(repository: Repository) -> None:
    with repository.run(SMALL) as run:
        run.disk(LARGEST_DISK, None)
        with pytest.raises(UnsupportedDisk, match="a map can describe at most"):
            run.disk(LARGEST_DISK + CHUNK, None)


# --- packs ------------------------------------------------------------------------------------


def _footer(lengths: list[int], key_box: bytes = NO_KEY_BOX) -> Footer:
    count = len(lengths)
    ids = np.frombuffer(random.Random(count).randbytes(ID * count), np.uint8).reshape(count, ID)
    return Footer(key_box, ids, np.array(lengths, np.uint32), np.zeros(count, np.uint8))


def _reopened(footer: Footer) -> Footer:
    tail = encode_tail(PLAIN, PackKind.MAP, bytes(ID), footer)
    assert len(tail) <= TAIL_ROOM
    return decode_footer(PLAIN, decode_trailer(tail, PackKind.MAP, bytes(ID)), tail[:-TRAILER])


def test_a_pack_of_more_than_a_gib_is_damage() -> None:
    full = [64 * MIB] * 16
    assert sum(full) == PACK_LIMIT
    assert _reopened(_footer(full)).count == 16
    with pytest.raises(DamagedData, match="more bytes than a pack can have"):
        _reopened(_footer([*full, 1]))


def test_a_footer_with_the_longest_key_box() -> None:
    longest = random.Random(3).randbytes(65535)
    footer = _reopened(_footer([1] * MAX_SLOTS, longest))
    assert (footer.key_box, footer.count) == (longest, MAX_SLOTS)
    with pytest.raises(struct.error):
        _footer([1], longest + b"\0").encode()


def test_an_impossible_trailer_is_damage_before_the_footer_is_read() -> None:
    tail = encode_tail(PLAIN, PackKind.MAP, bytes(ID), _footer([1]))
    trailer = decode_trailer(tail, PackKind.MAP, bytes(ID))
    for possible in (replace(trailer, count=MAX_SLOTS), replace(trailer, footer_length=FOOTER_LIMIT)):
        decode_trailer(possible.encode(), PackKind.MAP, bytes(ID))
    for impossible in (
        replace(trailer, count=MAX_SLOTS + 1),
        replace(trailer, footer_length=FOOTER_LIMIT + 1),
        replace(trailer, footer_length=16),
    ):
        with pytest.raises(DamagedData, match="invalid trailer"):
            decode_trailer(impossible.encode(), PackKind.MAP, bytes(ID))


def test_an_index_of_the_largest_packs_is_within_its_limits() -> None:
    pack = IndexedPack(PackKind.DATA, bytes(ID), 1, _footer([1] * MAX_SLOTS))
    content = index.encode(PLAIN, "index/x", index.IndexPart.of([pack] * runs._INDEX_EVERY))
    head = index.decode_head(PLAIN, "index/x", content)
    assert len(content) == head.size < index.LIMIT
    assert head.rows == runs._INDEX_EVERY * MAX_SLOTS < index.MAX_ROWS
    assert len(index.decode_table(PLAIN, "index/x", head, content)) == runs._INDEX_EVERY


def test_an_index_of_more_rows_than_it_may_have_is_damage() -> None:
    content = bytearray(index.encode(PLAIN, "index/x", index.IndexPart.of([])))
    for at, number in ((12, index.MAX_PACKS + 1), (16, index.MAX_ROWS + 1), (24, index.TABLE_LIMIT + 1)):
        changed = bytearray(content)
        changed[at : at + 4] = number.to_bytes(4, "little")
        with pytest.raises(DamagedData, match="invalid header"):
            index.decode_head(PLAIN, "index/x", bytes(changed))


# --- points and what is read without a key ----------------------------------------------------


def _point(point_id: str, **changes: object) -> Point:
    ref = points.Ref("00" * 16, 0)
    disks = (points.DiskRecord("vda", "full", 0, ref),)
    return msgspec.structs.replace(Point(point_id, "d", UUID, NOW, "pull", "full", disks), **changes)


def test_a_point_with_very_much_to_say(repository: Repository) -> None:
    notes = tuple(f"note {number} " + "x" * 1000 for number in range(10000))
    disks = tuple(
        points.DiskRecord(f"vd{number}", "full", 0, points.Ref("00" * 16, 0)) for number in range(999)
    )
    point = _point(
        points.new_id(NOW), notes=notes, disks=disks, tags={str(number): "x" for number in range(999)}
    )
    repository.points.commit(point)
    assert repository.points.get(UUID, point.point) == point


def test_many_points_of_one_second(repository: Repository) -> None:
    ids = [f"20261128T180000Z-{number:08x}" for number in range(1000)]
    for point_id in ids:
        repository.points.commit(_point(point_id))
    assert [point.point for point in repository.points.of(UUID)] == ids


def test_a_keep_that_is_too_large_holds(repository: Repository) -> None:
    point = _point(points.new_id(NOW))
    repository.points.commit(point)
    name, late = (UUID, point.point), datetime(2999, 1, 1, tzinfo=UTC)
    with pytest.raises(UsageError, match="1000 are allowed"):
        keep(repository, point.point, Keep(None, "x" * 1001))
    assert keep(repository, point.point, Keep(late, "\N{SNOWMAN}" * 1000)).kept
    repository.keeps.put(name, Keep(late, "x" * 65536))
    held = repository.keeps.holding(late + timedelta(days=9), *name)[name]
    assert "65536 are allowed" in (held.damage or "")


@pytest.mark.parametrize(("year", "sound"), [(1969, False), (1970, True), (9998, True), (9999, False)])
def test_times_out_of_all_reason_are_damage(repository: Repository, year: int, sound: bool) -> None:
    point = _point(points.new_id(NOW), time=NOW.replace(year=year))
    repository.points.commit(point)
    if sound:
        assert repository.points.get(UUID, point.point).time.year == year
    else:
        with pytest.raises(DamagedData, match="out of range"):
            repository.points.get(UUID, point.point)


def test_what_is_read_without_a_key_is_small() -> None:
    store = MemoryStore()
    repository = repositories.create(store, Password("correct horse"))
    largest = bytes(64 * 1024)
    store.put("keys/" + "0" * 16, largest + b"\0")
    (fault,) = [slot for _, slot in list_slots(store, bytes(16)) if isinstance(slot, DamagedData)]
    assert "at most 65536 are plausible" in fault.message
    text = store.get("repository.json")
    store.put("repository.json", text.ljust(len(largest)))
    assert repositories.open_repository(store, Password("correct horse")).id == repository.id
    store.put("repository.json", text.ljust(len(largest) + 1))
    with pytest.raises(DamagedData, match="at most 65536 are plausible"):
        repositories.open_repository(store, Password("correct horse"))
