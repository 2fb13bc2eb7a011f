"""A short run of tests/fuzz.py, and what it has found, each case by itself."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator

import msgspec
import numpy as np
import pytest

from puller.errors import DamagedData, NoRepository
from puller.repository import points
from puller.repository import repository as repositories
from puller.repository.format import descriptor, index
from puller.repository.format.footer import TRAILER, Footer, decode_footer, decode_trailer, encode_tail
from puller.repository.format.packname import PackKind
from puller.repository.format.pages import PackTable, decode_page, decode_root
from puller.repository.keys import key_slots as slots
from puller.repository.keys.key_slots import Kdf, KeyFile, Password
from puller.repository.keys.keyring import NO_KEY_BOX, KeyRing
from puller.units import CHUNK
from tests import fuzz
from tests.lab.history import back_up
from tests.lab.memory import MemoryStore

MUTATIONS = 1500
SEED = 20261123

PLAIN = KeyRing.unencrypted(bytes(range(16)), bytes(range(16)))


@pytest.fixture
def alarm() -> Iterator[None]:
    """Ends a case that hangs."""
    old = signal.signal(signal.SIGALRM, fuzz.hang)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, old)


def test_mutated_objects_are_answered_rightly_or_refused(alarm: None) -> None:
    targets, outcomes, folders = fuzz.make_targets(), Counter[str](), set()
    for number in range(MUTATIONS):
        case = fuzz.draw(targets, f"{SEED}:{number}")
        folders.add((case.folder, case.sealed))
        signal.alarm(fuzz.CASE_SECONDS)
        try:
            outcomes += fuzz.examine(case)
        except BaseException as error:
            error.add_note(f"{case.seed}: {case.name}, behind the seal: {case.sealed}, {case.body!r:.2000}")
            raise
    assert len(folders) == 2 * 11 + 2, "every kind of object is mutated, raw and behind its seal"
    assert outcomes["DamagedData"] > MUTATIONS / 4
    assert outcomes["answered"] > MUTATIONS / 4


@pytest.mark.parametrize("content", [b'{"a": "\xff"}', b'{"version": 1, "x": "\xff\xfe"}', b"[" * 100_000])
def test_what_is_no_utf8_or_nested_too_deep_is_damage(content: bytes) -> None:
    with pytest.raises(DamagedData):
        points.decode(content, "points/x/y")
    store = MemoryStore()
    store.put(f"keys/{'0' * 16}", content)
    ((_, slot),) = slots.list_slots(store, bytes(16))
    assert isinstance(slot, DamagedData)
    head = b'{"format": "puller", "version": 1, "id": "' + b"0" * 32 + b'", "x": '
    with pytest.raises((DamagedData, NoRepository)):
        descriptor.decode(head + content + b"}", "here")


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "2026-11-23T05:00:00"])
def test_a_time_that_cannot_be_shown_is_damage(time: str) -> None:
    store = MemoryStore()
    repository = repositories.create(store, KeyFile(bytes(64)))
    point = back_up(repository, "a", [1]).point
    record = {**msgspec.to_builtins(point), "time": time}
    with pytest.raises(DamagedData, match="time"):
        points.decode(msgspec.json.encode(record), points.object_name(point.uuid, point.point))
    (info,) = store.list("keys/")
    slot = {**msgspec.json.decode(store.get(info.key)), "created": time}
    store.put(info.key, msgspec.json.encode(slot))
    ((_, found),) = slots.list_slots(store, repository.descriptor.id_bytes)
    assert isinstance(found, DamagedData)


@pytest.mark.parametrize("field", ["memory_kib", "iterations", "lanes"])
@pytest.mark.parametrize("value", [-1, 0, 1 << 32, 1 << 63])
def test_impossible_costs_of_a_key_slot_are_damage(field: str, value: int) -> None:
    kdf = msgspec.convert({"salt": "00" * 16, field: value}, Kdf)
    with pytest.raises(DamagedData):
        Password("x").key(kdf)


def test_an_id_with_spaces_is_no_id() -> None:
    plain = msgspec.json.encode(repositories.create(MemoryStore(), None).descriptor)
    identity = msgspec.json.decode(plain)["id"].encode()
    assert descriptor.decode(plain, "here").id == identity.decode()
    for other in (b" " + identity, identity.upper() + b" ", identity[:-1], identity + b"00"):
        with pytest.raises(DamagedData):
            descriptor.decode(plain.replace(identity, other), "here")


def _tail(length: int) -> bytes:
    footer = Footer(
        NO_KEY_BOX, np.zeros((1, 16), np.uint8), np.array([length], np.uint32), np.zeros(1, np.uint8)
    )
    return encode_tail(PLAIN, PackKind.DATA, bytes(16), footer)


def test_a_slot_longer_than_any_chunk_is_refused_before_it_is_read() -> None:
    for length, refused in ((CHUNK + 16, False), (CHUNK + 17, True), (1 << 30, True)):
        tail = _tail(length)
        trailer = decode_trailer(tail, PackKind.DATA, bytes(16))
        if refused:
            with pytest.raises(DamagedData, match="longer than its content"):
                decode_footer(PLAIN, trailer, tail[:-TRAILER])
        else:
            decode_footer(PLAIN, trailer, tail[:-TRAILER])


@pytest.mark.parametrize("version", [0, 2, 0xFFFF])
def test_a_pack_of_another_version_is_damage_of_this_pack_only(version: int) -> None:
    tail = bytearray(_tail(1))
    tail[-40:-38] = version.to_bytes(2, "little")
    with pytest.raises(DamagedData, match="format version"):
        decode_trailer(bytes(tail), PackKind.DATA, bytes(16))


def test_a_map_lists_no_more_packs_than_it_can_name() -> None:
    page = b"PAGE" + (3).to_bytes(2, "little") + (1).to_bytes(2, "little") + bytes(3 * 16 + 4)
    with pytest.raises(DamagedData):
        decode_page(page, PackTable(), 1)
    root = b"ROOT" + (3).to_bytes(4, "little") + (1).to_bytes(8, "little") + bytes(3 * 16 + 6)
    with pytest.raises(DamagedData):
        decode_root(root, PackTable())


def test_a_flipped_version_of_an_index_does_not_stop_backups() -> None:
    store = MemoryStore()
    repository = repositories.create(store, KeyFile(bytes(64)))
    back_up(repository, "a", [1]).commit()
    (info,) = store.list("index/")
    content = bytearray(store.get(info.key))
    content[8] ^= 2
    store.put(info.key, content)
    with pytest.raises(DamagedData):
        index.decode_head(repository.keys, info.key, bytes(content))
    assert back_up(repository, "b", [1]).commit().disks[0].new_bytes == CHUNK
