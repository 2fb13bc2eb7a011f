"""The records of condemned slots: their form, and sets of slots."""

from __future__ import annotations

import time

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from puller.errors import DamagedData, Overtaken, UnsupportedFormat
from puller.repository.format.bits import bits_of, column_of
from puller.repository.format.packname import PackKind
from puller.repository.format.pages import PackTable
from puller.repository.keys.keyring import KeyRing
from puller.repository.records import condemned
from puller.repository.records.condemned import ALL, Condemned, CondemnedSlots, slots_in, union
from puller.repository.writing.chunkindex import MISS
from puller.repository.writing.claims import Claims
from puller.store.base import ObjectInfo
from tests.lab.memory import MemoryStore

_BITS = st.just(ALL) | st.integers(1, 1 << 70)
_PACKS = st.dictionaries(
    st.binary(min_size=16, max_size=16),
    st.builds(CondemnedSlots, st.sampled_from(PackKind), _BITS),
    max_size=5,
)
INFO = ObjectInfo("condemned/" + "0" * 32, 1, 1234.5, "etag")


def make() -> tuple[MemoryStore, Condemned]:
    store = MemoryStore()
    return store, Condemned(store, KeyRing.unencrypted(bytes(16), bytes(16)).boxes())


@given(st.booleans(), st.floats(0, 1e9), _PACKS)
def test_records_survive(final: bool, grace: float, packs: dict[bytes, CondemnedSlots]) -> None:
    record = condemned.decode(condemned.encode(final, grace, packs), INFO)
    assert (record.final, record.grace, record.packs, record.modified) == (final, grace, packs, 1234.5)


def test_the_form_is_that_of_the_format() -> None:
    packs = {
        bytes(16): CondemnedSlots(PackKind.DATA, ALL),
        b"\xff" * 16: CondemnedSlots(PackKind.MAP, 1 << 9 | 1 << 8 | 1),
    }
    assert msgspec.json.decode(condemned.encode(False, 3600, packs)) == {
        "version": 1,
        "stage": "waiting",
        "grace": 3600.0,
        "packs": {
            "00" * 16: {"kind": "data", "slots": None},
            "ff" * 16: {"kind": "map", "slots": "0103"},
        },
    }


@given(st.lists(st.booleans(), max_size=70))
def test_sets_and_columns_agree(column: list[bool]) -> None:
    bits = bits_of(np.array(column, np.bool_))
    assert [bool(bits >> slot & 1) for slot in range(len(column))] == column
    assert column_of(bits, len(column)).tolist() == column
    assert column_of(ALL, len(column)).all()


@given(st.lists(_PACKS, max_size=4))
def test_union_names_what_any_names(parts: list[dict[bytes, CondemnedSlots]]) -> None:
    joined = union(parts)
    assert joined.keys() == {pack_id for part in parts for pack_id in part}
    for pack_id in joined:
        assert all(slots_in(part, pack_id) & ~joined[pack_id].slots == 0 for part in parts)


def test_records_are_split_listed_read_and_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(condemned, "RECORD_BYTES", 128)  # two packs with few slots
    store, records = make()
    packs = {bytes([number]) * 16: CondemnedSlots(PackKind.DATA, number or ALL) for number in range(5)}
    records.put(True, 60, packs)
    records.put(False, 60, {})
    store.put("condemned/notes", b"foreign")
    infos = records.listed()
    assert len(infos) == 3
    found = records.read(infos)
    assert union(record.packs for record in found) == packs
    records.delete(found[:1])
    assert len(records.read(infos)) == 2, "what has vanished since it was listed is left out"
    assert len(records.listed()) == 2


def test_records_of_packs_with_many_slots_are_split_by_what_they_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("puller.repository.format.sealing.BOX_LIMIT", 64 * 1024)
    monkeypatch.setattr(condemned, "RECORD_BYTES", 40 * 1024)
    _, records = make()
    packs = {bytes([number]) * 16: CondemnedSlots(PackKind.MAP, (1 << 65536) - 1) for number in range(9)}
    records.put(True, 60, packs)
    assert union(record.packs for record in records.read(records.listed())) == packs


def test_a_record_that_cannot_be_read_is_an_error() -> None:
    store, records = make()
    records.put(False, 60, {bytes(16): CondemnedSlots(PackKind.DATA, ALL)})
    [info] = records.listed()
    store.put(info.key, b"garbage")
    with pytest.raises(DamagedData):
        records.read([info])


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"[]", DamagedData),
        (b'{"stage": "final", "grace": 1, "packs": {"00": {"kind": "data"}}}', DamagedData),
        (b'{"stage": "final", "grace": 1, "packs": {"' + b"0" * 32 + b'": {"kind": "?"}}}', DamagedData),
        (b'{"stage": "doomed", "grace": 1, "packs": {}}', UnsupportedFormat),
        (b'{"stage": "final", "grace": 1, "packs": {}, "version": 2}', UnsupportedFormat),
    ],
)
def test_impossible_records(content: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        condemned.decode(content, INFO)


def test_a_record_is_bound_to_its_name() -> None:
    store, records = make()
    records.put(False, 60, {bytes(16): CondemnedSlots(PackKind.DATA, ALL)})
    [info] = records.listed()
    other = "condemned/" + "1" * 32
    store.put(other, store.get(info.key))
    with pytest.raises(DamagedData):
        records.read([store.stat(other)])


@pytest.mark.parametrize("condemned_slot", range(9))
def test_a_run_is_overtaken_if_just_what_it_has_written_is_condemned(condemned_slot: int) -> None:
    _, records = make()
    table, pack = PackTable(), bytes(15) + b"p"
    claims = Claims(records, table)
    claims.hold(table.number(pack), 2, 1)
    claims.hold(table.number(pack), 4, 3)
    packs = {pack: CondemnedSlots(PackKind.DATA, 1 << condemned_slot)}
    records.put(True, 3600, packs)
    if condemned_slot in {2, 4, 5, 6}:
        with pytest.raises(Overtaken):
            claims.require_standing(time.time)
    else:
        claims.require_standing(time.time)


@pytest.mark.parametrize("condemned_slot", range(9))
def test_a_run_is_overtaken_if_just_what_it_refers_to_is_condemned(condemned_slot: int) -> None:
    _, records = make()
    table, packs = PackTable(), [bytes(15) + b"p", bytes(15) + b"q"]
    numbers = [table.number(pack) for pack in packs]
    claims = Claims(records, table)
    offered = np.array([numbers[0], MISS, numbers[0], numbers[1]], np.int64)
    admitted = claims.admit(offered, np.array([2, 5, 7, 4], np.uint16))
    assert admitted.tolist() == offered.tolist()
    records.put(True, 3600, {packs[0]: CondemnedSlots(PackKind.DATA, 1 << condemned_slot)})
    if condemned_slot in {2, 7}:
        with pytest.raises(Overtaken):
            claims.require_standing(time.time)
    else:
        claims.require_standing(time.time)


def test_condemned_slots_are_not_referred_to() -> None:
    _, records = make()
    table, pack, other = PackTable(), bytes(15) + b"p", bytes(15) + b"q"
    records.put(False, 3600, {pack: CondemnedSlots(PackKind.DATA, 0b1010010)})
    claims = Claims(records, table)
    offered = np.array([table.number(pack)] * 8 + [table.number(other)], np.int64)
    admitted = claims.admit(offered, np.array([*range(8), 1], np.uint16))
    refused = np.flatnonzero(admitted == MISS).tolist()
    assert refused == [1, 4, 6]
    assert admitted[8] == table.number(other)


@pytest.mark.parametrize(("since", "due"), [(3600 - 301, False), (3600 - 300, True), (3600, True)])
def test_a_waiting_record_counts_as_final_shortly_before_its_grace_time_ends(since: int, due: bool) -> None:
    _, records = make()
    table, pack = PackTable(), bytes(15) + b"p"
    claims = Claims(records, table)
    claims.hold(table.number(pack), 0, 1)
    records.put(False, 3600, {pack: CondemnedSlots(PackKind.DATA, ALL)})
    [info] = records.listed()
    if due:
        with pytest.raises(Overtaken):
            claims.require_standing(lambda: info.modified + since)
    else:
        claims.require_standing(lambda: info.modified + since)


def test_records_are_cut_by_what_they_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry takes 64 bytes and a digit for four slots."""
    monkeypatch.setattr(condemned, "RECORD_BYTES", 640)
    whole = {bytes([number]) * 16: CondemnedSlots(PackKind.DATA, ALL) for number in range(25)}
    many = {bytes([number]) * 16: CondemnedSlots(PackKind.DATA, (1 << 1024) - 1) for number in range(5)}
    for packs, lengths in ((whole, [10, 10, 5]), (many, [2, 2, 1])):
        parts = list(condemned._parts(packs))
        assert [len(part) for part in parts] == lengths
        assert {pack: slots for part in parts for pack, slots in part.items()} == packs
