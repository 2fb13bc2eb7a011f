"""Pages, roots, footers, boxes, indexes: what is written is read, what is altered is refused."""

from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from puller.errors import DamagedData, KeyNotHeld, NoRepository, PullerError, UnsupportedFormat
from puller.repository import points
from puller.repository.format import descriptor, index
from puller.repository.format.bits import column_of
from puller.repository.format.chunk_slot import SlotCipher, SlotReader, compress, content_id
from puller.repository.format.footer import (
    COMPRESSED,
    DEAD,
    Footer,
    Trailer,
    decode_footer,
    decode_trailer,
    encode_tail,
)
from puller.repository.format.index import BLOCK_ROWS, IndexedPack, IndexPart, PackEntry
from puller.repository.format.packname import ID, PackKind
from puller.repository.format.pages import (
    ZERO,
    PackTable,
    Refs,
    Root,
    chunks_in_page,
    decode_page,
    decode_root,
    encode_page,
    encode_root,
)
from puller.repository.format.sealing import BoxKind
from puller.repository.keys.keyring import NO_KEY_BOX, KeyRing
from puller.units import CHUNK, PAGE_CHUNKS, page_count

PLAIN = KeyRing.unencrypted(bytes(range(16)), bytes(range(16)))
SECRET = KeyRing.from_master(bytes(range(16)), bytes(range(16)), bytes(32))
RINGS = st.sampled_from([PLAIN, SECRET])
PACK_IDS = st.binary(min_size=16, max_size=16)


@st.composite
def refs(draw: st.DrawFn, count: int) -> tuple[Refs, PackTable]:
    table = PackTable()
    numbers = [table.number(pack_id) for pack_id in draw(st.lists(PACK_IDS, min_size=1, max_size=5))]
    packs = draw(st.lists(st.sampled_from([ZERO, *numbers]), min_size=count, max_size=count))
    slots = draw(st.lists(st.integers(0, 65535), min_size=count, max_size=count))
    column = [0 if pack == ZERO else slot for pack, slot in zip(packs, slots, strict=True)]
    return Refs(np.array(packs, np.int64), np.array(column, np.uint16)), table


def _named(refs: Refs, table: PackTable) -> list[tuple[bytes | None, int]]:
    pairs = zip(refs.packs.tolist(), refs.slots.tolist(), strict=True)
    return [(None if pack == ZERO else table.pack_id(pack), slot) for pack, slot in pairs]


@given(st.data(), st.integers(1, 64))
def test_page_survives_and_does_not_depend_on_pack_numbers(data: st.DataObject, count: int) -> None:
    page, table = data.draw(refs(count))
    content = encode_page(page, table)
    other = PackTable()
    for extra in range(3):
        other.number(bytes([extra]) * 16)
    read = decode_page(content, other, count)
    assert _named(read, other) == _named(page, table)
    assert encode_page(read, other) == content


def test_page_is_stored_as_the_format_says() -> None:
    table = PackTable()
    one, two = table.number(b"1" * 16), table.number(b"2" * 16)
    page = Refs(np.array([one, ZERO, one, two, one]), np.array([7, 0, 8, 3, 9], np.uint16))
    assert encode_page(page, table) == (
        b"PAGE\2\0\5\0" + b"1" * 16 + b"2" * 16 + b"\1\0\1\2\1" + bytes(5) + b"\7\1\1\xfa" + b"\0\0\0\xff"
    )


@given(st.data(), st.integers(0, 5 * PAGE_CHUNKS * CHUNK))
def test_root_survives(data: st.DataObject, size: int) -> None:
    pages, table = data.draw(refs(page_count(size)))
    root = decode_root(encode_root(Root(size, pages), table), other := PackTable())
    assert root.size == size
    assert _named(root.pages, other) == _named(pages, table)


def test_page_sizes_of_an_odd_disk() -> None:
    size = PAGE_CHUNKS * CHUNK + 5 * CHUNK + 1
    assert [chunks_in_page(size, page) for page in range(page_count(size))] == [PAGE_CHUNKS, 6]


@given(st.binary(max_size=300), st.integers(1, 4))
def test_garbage_is_no_page_and_no_root(content: bytes, count: int) -> None:
    with pytest.raises(DamagedData):
        decode_page(content, PackTable(), count)
    with pytest.raises(DamagedData):
        decode_root(content, PackTable())


def _footer(lengths: list[int], keys: KeyRing, pack_id: bytes) -> Footer:
    ids = np.arange(16 * len(lengths), dtype=np.uint8).reshape(-1, 16)
    box = keys.new_data_key(pack_id)[1]
    return Footer(box, ids, np.array(lengths, np.uint32), np.zeros(len(lengths), np.uint8))


def _flip(sealed: bytearray, where: float) -> None:
    """Flip the bit at this share of the length, which keys and nonces make vary a little."""
    bit = int(where * len(sealed) * 8)
    sealed[bit // 8] ^= 1 << bit % 8


SHARES = st.floats(0, 1, exclude_max=True)


@given(RINGS, st.lists(st.integers(0, 65552), max_size=20), PACK_IDS)
def test_footer_survives(keys: KeyRing, lengths: list[int], pack_id: bytes) -> None:
    footer = _footer(lengths, keys, pack_id)
    tail = encode_tail(keys, PackKind.DATA, pack_id, footer)
    trailer = decode_trailer(tail, PackKind.DATA, pack_id)
    read = decode_footer(keys, trailer, tail[:-48])
    assert read.encode() == footer.encode()
    assert read.offsets.tolist() == np.cumsum([0, *lengths]).tolist()


@given(RINGS, SHARES)
def test_a_flipped_bit_in_a_tail_is_noticed(keys: KeyRing, where: float) -> None:
    pack_id = bytes(16)
    tail = bytearray(encode_tail(keys, PackKind.DATA, pack_id, _footer([10, 20], keys, pack_id)))
    _flip(tail, where)
    with pytest.raises((DamagedData, UnsupportedFormat)):
        trailer = decode_trailer(bytes(tail), PackKind.DATA, pack_id)
        decode_footer(keys, trailer, bytes(tail[:-48])[-trailer.footer_length :])


@given(RINGS, PACK_IDS, st.binary(max_size=200), st.integers(0, 65535))
def test_slot_is_tied_to_its_place(keys: KeyRing, pack_id: bytes, seed: bytes, slot: int) -> None:
    chunk = (seed or b"x").ljust(CHUNK, b"\7")
    pack_key, box = keys.new_data_key(pack_id)
    [(stored, flags)] = compress([chunk], 1)
    cipher = SlotCipher(keys, pack_id, pack_key)
    sealed = bytearray(len(stored) + cipher.overhead)
    cipher.seal_into(1, stored, memoryview(sealed))
    ids = np.frombuffer(content_id(keys.id_key, chunk) * 3, np.uint8).reshape(3, 16)
    footer = Footer(box, ids, np.full(3, len(sealed), np.uint32), np.array([flags, flags, DEAD], np.uint8))
    reader = SlotReader(keys, PackKind.DATA, pack_id, footer)
    assert reader.content(1, bytes(sealed)) == chunk
    with pytest.raises(DamagedData):
        reader.content(2, bytes(sealed))
    sealed[len(sealed) // 2] ^= 1
    with pytest.raises(DamagedData):
        reader.content(1, bytes(sealed))


def test_backup_only_keys_open_maps_but_no_guest_data() -> None:
    held = KeyRing.from_backup_only(SECRET.repository_id, SECRET.repository_id, SECRET.backup_only())
    pack_id = bytes(16)
    pack_key, box = held.new_data_key(pack_id)
    assert SECRET.open_data_key(pack_id, box) == pack_key
    assert held.map_key(pack_id) == SECRET.map_key(pack_id)
    with pytest.raises(KeyNotHeld):
        held.open_data_key(pack_id, box)


@given(RINGS, st.binary(max_size=1000), SHARES)
def test_a_flipped_bit_in_a_box_is_noticed(keys: KeyRing, content: bytes, where: float) -> None:
    box = bytearray(keys.boxes().pack(BoxKind.POINT, "points/a/b", content))
    assert keys.boxes().unpack(BoxKind.POINT, "points/a/b", bytes(box)) == content
    with pytest.raises(DamagedData):
        keys.boxes().unpack(BoxKind.POINT, "points/a/c", bytes(box))
    _flip(box, where)
    with pytest.raises((DamagedData, UnsupportedFormat)):
        keys.boxes().unpack(BoxKind.POINT, "points/a/b", bytes(box))


def _indexed(number: int, slots: int, dead: int = 0) -> IndexedPack:
    """``dead`` is a set of slots."""
    rng = np.random.default_rng(number)
    flags = np.where(column_of(dead, slots), DEAD, COMPRESSED).astype(np.uint8)
    ids = rng.integers(1, 256, (slots, ID), np.uint8)
    ids[flags == DEAD] = 0
    footer = Footer(NO_KEY_BOX, ids, np.full(slots, 77, np.uint32), flags)
    return IndexedPack(PackKind(1 + number % 2), bytes([number]) * ID, 77 * slots, footer, number)


def _said(keys: KeyRing, name: str, content: bytes) -> IndexPart:
    head = index.decode_head(keys, name, content)
    packs = index.decode_table(keys, name, head, content)
    return IndexPart(packs, index.decode_rows(keys, name, head, content))


@given(RINGS, st.lists(st.tuples(st.integers(0, 300), st.integers(0, 1 << 299)), max_size=6))
def test_an_index_survives_with_every_live_id(keys: KeyRing, packs: list[tuple[int, int]]) -> None:
    entries = [_indexed(number, slots, dead & (1 << slots) - 1) for number, (slots, dead) in enumerate(packs)]
    content = index.encode(keys, "index/x", IndexPart.of(entries))
    said = _said(keys, "index/x", content)
    assert said.packs == [PackEntry.of(pack) for pack in entries]
    assert sorted(said.rows.tolist()) == said.rows.tolist()
    expected = [
        (place, int.from_bytes(bytes(key)[:6], "big"))
        for place, pack in enumerate(entries)
        for key in pack.footer.ids
        if key.any()
    ]
    assert sorted((row & 0xFFFF, row >> 16) for row in said.rows.tolist()) == sorted(expected)


def test_the_first_rows_of_an_index_are_a_sample_of_its_ids() -> None:
    content = index.encode(SECRET, "index/x", IndexPart.of([_indexed(1, 3000), _indexed(2, 3000)]))
    head = index.decode_head(SECRET, "index/x", content)
    rows = _said(SECRET, "index/x", content).rows
    start = content[: head.end_of(6000 // 4)]
    sample = index.decode_rows(SECRET, "index/x", head, start)
    assert 1500 <= len(sample) < 1500 + BLOCK_ROWS
    assert (sample == rows[: len(sample)]).all()
    assert abs(int((rows < 1 << 62).sum()) - 1500) < 150, "a quarter of the ids begins with two zero bits"
    assert index.decode_rows(SECRET, "index/x", head, start[:-1]).tolist() == sample[:-BLOCK_ROWS].tolist()


@given(RINGS, SHARES)
def test_a_flipped_bit_in_an_index_is_noticed(keys: KeyRing, where: float) -> None:
    content = bytearray(index.encode(keys, "index/x", IndexPart.of([_indexed(1, 700)])))
    with pytest.raises(DamagedData):
        _said(keys, "index/y", bytes(content))
    _flip(content, where)
    with pytest.raises(DamagedData):
        _said(keys, "index/x", bytes(content))


def test_blocks_of_an_index_cannot_change_places() -> None:
    content = index.encode(SECRET, "index/x", IndexPart.of([_indexed(1, 2 * BLOCK_ROWS)]))
    at = index.decode_head(SECRET, "index/x", content).blocks_at
    middle = at + (len(content) - at) // 2
    with pytest.raises(DamagedData):
        _said(SECRET, "index/x", content[:at] + content[middle:] + content[at:middle])


@given(st.lists(st.booleans(), min_size=5, max_size=5))
def test_parts_of_an_index_are_joined_and_thinned(kept: list[bool]) -> None:
    packs = [_indexed(number, 40 + number, number) for number in range(5)]
    joined = IndexPart.join([IndexPart.of(packs[:2]), IndexPart.of([]), IndexPart.of(packs[2:])])
    whole = IndexPart.of(packs)
    assert (joined.packs, joined.rows.tolist()) == (whole.packs, whole.rows.tolist())
    left = IndexPart.of([pack for pack, keep in zip(packs, kept, strict=True) if keep])
    thinned = joined.only(np.array(kept))
    assert (thinned.packs, thinned.rows.tolist()) == (left.packs, left.rows.tolist())


@given(st.binary(max_size=100))
def test_garbage_never_raises_anything_undocumented(content: bytes) -> None:
    readers: list[Callable[[], object]] = [
        lambda: points.decode(content, "points/x/y"),
        lambda: descriptor.decode(content, "memory:"),
        lambda: _said(PLAIN, "index/x", content),
        lambda: decode_trailer(content, PackKind.MAP, bytes(16)),
        lambda: Footer.decode(content, 3),
    ]
    for read in readers:
        try:
            read()
        except PullerError:
            continue


def test_descriptor_of_another_program_or_of_the_future_is_refused() -> None:
    with pytest.raises(NoRepository):
        descriptor.decode(b'{"format": "restic", "version": 2}', "here")
    with pytest.raises(UnsupportedFormat):
        descriptor.decode(b'{"format": "puller", "version": 2, "id": 7}', "here")


def test_point_names_cannot_leave_the_folder() -> None:
    disk = points.DiskRecord("../../etc/passwd", "full", 0, points.Ref("00" * 16, 0))
    uuid = "1f80ae13-49df-4e30-9b5a-d185a32acbbc"
    point_id = points.new_id(datetime.now(UTC))
    point = points.Point(point_id, "d", uuid, datetime.now(UTC), "pull", "full", (disk,))
    import msgspec

    with pytest.raises(DamagedData, match="holds invalid names"):
        points.decode(msgspec.json.encode(point), points.object_name(uuid, point_id))


def test_key_box_is_absent_without_encryption() -> None:
    assert PLAIN.new_data_key(bytes(16)) == (b"", NO_KEY_BOX)


@pytest.mark.parametrize("keys", [PLAIN, SECRET], ids=["plain", "encrypted"])
def test_a_pack_may_have_65536_slots_and_no_more(keys: KeyRing) -> None:
    pack_id = bytes(16)
    tail = encode_tail(keys, PackKind.DATA, pack_id, _footer([100] * 65536, keys, pack_id))
    read = decode_footer(keys, decode_trailer(tail, PackKind.DATA, pack_id), tail[:-48])
    assert (read.count, int(read.offsets[-1])) == (65536, 6553600)
    more = encode_tail(keys, PackKind.DATA, pack_id, _footer([100] * 65537, keys, pack_id))
    with pytest.raises(DamagedData, match="invalid trailer"):
        decode_trailer(more, PackKind.DATA, pack_id)


@pytest.mark.parametrize(
    ("length", "possible"), [(16, False), (17, True), (4 << 20, True), (4 << 20 | 1, False)]
)
def test_how_long_a_footer_may_be(length: int, possible: bool) -> None:
    trailer = Trailer(PackKind.DATA, PLAIN.cipher, 1, length, bytes(12), bytes(16))
    if possible:
        assert decode_trailer(trailer.encode(), PackKind.DATA, bytes(16)) == trailer
    else:
        with pytest.raises(DamagedData, match="invalid trailer"):
            decode_trailer(trailer.encode(), PackKind.DATA, bytes(16))


def test_what_compression_makes_no_shorter_is_stored_as_it_is() -> None:
    noise = np.random.default_rng(1).bytes(CHUNK)
    assert compress([noise, bytes(CHUNK)], 1)[0] == (noise, 0)
    (frame, flags) = compress([noise, bytes(CHUNK)], 1)[1]
    assert (len(frame) < 100, flags) == (True, COMPRESSED)


def test_kinds_of_packs_are_numbered_and_named_as_the_format_says() -> None:
    for kind, number, name in ((PackKind.DATA, 1, "packs/0a/"), (PackKind.MAP, 2, "maps/0a/")):
        assert kind.object_name(bytes([10]) * 16) == name + "0a" * 16
        trailer = Trailer(kind, PLAIN.cipher, 1, 17, bytes(12), bytes(16)).encode()
        assert int.from_bytes(trailer[10:12], "little") == number
