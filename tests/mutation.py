"""Mutations: of bytes, of JSON, and of what a repository seals, sealed again with its own keys."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from puller.errors import PullerError
from puller.repository.format import compression, index
from puller.repository.format.chunk_slot import SlotCipher, SlotReader, compress, content_id
from puller.repository.format.footer import (
    TRAILER,
    Footer,
    Trailer,
    decode_footer,
    decode_trailer,
    encode_tail,
)
from puller.repository.format.packname import ID, PackKind
from puller.repository.format.sealing import NONCE, TAG, BoxKind
from puller.repository.keys.keyring import KeyRing

_EXTREMES = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 1 << 31, (1 << 31) - 1, (1 << 32) - 1, 1 << 63, (1 << 64) - 1)
_VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        -1,
        0,
        1,
        65535,
        65536,
        1 << 31,
        1 << 32,
        (1 << 63) - 1,
        1 << 63,
        1 << 64,
        -(1 << 63),
        1e308,
    ),
    *(
        "",
        "x" * 3000,
        "../../etc/passwd",
        "\0",
        "\ud800",
        "00" * 16,
        "0" * 31 + " ",
        "é" * 16,
        "final",
        "full",
    ),
    *("0001-01-01T00:00:00Z", "9999-12-31T23:59:59-23:59", "2026-11-23T05:00:00", "argon2id", [], {}),
)
BOX_KINDS = {
    "points/": BoxKind.POINT,
    "pending/": BoxKind.POINT,
    "condemned/": BoxKind.CONDEMNED,
    "locks/": BoxKind.LOCK,
    "damaged/": BoxKind.DAMAGED,
    "verified/": BoxKind.VERIFIED,
    "kept/": BoxKind.KEEP,
    "proofs/": BoxKind.PROOF,
}


def mutate(rng: random.Random, content: bytes, other: bytes = b"") -> bytes:
    """``content`` with one to three changes; ``other`` is of the same kind, for swaps and splices."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        content = rng.choice(_BYTES)(rng, content, other)
    return content


def _flip(rng: random.Random, content: bytes, other: bytes) -> bytes:
    if not content:
        return b"\1"
    changed = bytearray(content)
    changed[_place(rng, content)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _place(rng: random.Random, content: bytes) -> int:
    """Often near one of the ends, where the fields are."""
    near = min(len(content), 200)
    return rng.choice(
        (rng.randrange(len(content)), rng.randrange(near), len(content) - 1 - rng.randrange(near))
    )


def _cut(rng: random.Random, content: bytes, other: bytes) -> bytes:
    first, last = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    return rng.choice((content[:first], content[first:], content[:first] + content[last:]))


def _insert(rng: random.Random, content: bytes, other: bytes) -> bytes:
    at, length = rng.randrange(len(content) + 1), rng.choice((1, 2, 16, 48, 1000))
    return content[:at] + rng.choice((bytes(length), rng.randbytes(length))) + content[at:]


def _duplicate(rng: random.Random, content: bytes, other: bytes) -> bytes:
    first, last = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    return content[:last] + content[first:]


def _swap(rng: random.Random, content: bytes, other: bytes) -> bytes:
    at = rng.randrange(len(content) + 1)
    return rng.choice((other, content[:at] + other[at:], other[:at] + content[at:]))


def _extreme(rng: random.Random, content: bytes, other: bytes) -> bytes:
    """Where a field may be, a number that is very large or small."""
    width, form = rng.choice(((1, "<B"), (2, "<H"), (4, "<I"), (8, "<Q")))
    if len(content) < width:
        return content
    at = min(_place(rng, content), len(content) - width)
    number = rng.choice(_EXTREMES) & ((1 << 8 * width) - 1)
    return content[:at] + struct.pack(form, number) + content[at + width :]


_BYTES: Sequence[Callable[[random.Random, bytes, bytes], bytes]] = (
    *(_flip, _flip, _cut, _insert, _duplicate, _swap, _extreme, _extreme),
)


def mutate_json(rng: random.Random, content: bytes, other: bytes = b"") -> bytes:
    """A document with members changed, lost, repeated or nested far too deep; or just other bytes."""
    if rng.random() < 0.2:
        return mutate(rng, content, other)
    document = json.loads(content)
    for _ in range(rng.choice((1, 1, 2, 3))):
        _change(rng, document)
    text = json.dumps(document).encode()
    deep = b'"' + b"DEEP" + b'"'
    return text.replace(deep, rng.choice((b"[" * 5000 + b"]" * 5000, b'{"a":' * 3000 + b"1" + b"}" * 3000)))


def _change(rng: random.Random, node: Any) -> None:
    """Walk down by chance, then change one member."""
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            return
        key = rng.choice(keys)
        if isinstance(node[key], dict | list) and rng.random() < 0.7:
            node = node[key]
            continue
        break
    match rng.randrange(5):
        case 0:
            del node[key]
        case 1 if isinstance(node, list):
            node.append(node[key])
        case 1:
            node["unknown"] = "DEEP"
        case 2 if isinstance(node, dict):
            node[str(rng.choice(_VALUES))] = node.pop(key)
        case _:
            node[key] = rng.choice((*_VALUES, "DEEP"))


def reseal_box(rng: random.Random, keys: KeyRing, name: str, box: bytes, other: bytes) -> bytes:
    """A box whose content was changed by somebody who holds the keys."""
    kind = next(kind for prefix, kind in BOX_KINDS.items() if name.startswith(prefix))
    content = keys.boxes().unpack(kind, name, box)
    if rng.random() < 0.1:
        return _reseal_frame(rng, keys, name, kind, content)
    return keys.boxes().pack(kind, name, mutate_json(rng, content))


def reseal_index(rng: random.Random, keys: KeyRing, name: str, body: bytes) -> bytes:
    """An index object whose header, table or rows were changed by somebody who holds the keys."""
    head = index.decode_head(keys, name, body)
    part = index.IndexPart(
        index.decode_table(keys, name, head, body), index.decode_rows(keys, name, head, body)
    )
    rows = part.rows.tobytes()
    match rng.randrange(4):
        case 0:
            rows = mutate(rng, rows, rows)
            changed = np.frombuffer(rows[: len(rows) // 8 * 8], np.uint64)
            return index.encode(keys, name, replace(part, rows=changed))
        case 1:
            number = rng.choice(_EXTREMES)
            field = rng.choice(("generation", "size", "slots", "dead"))
            limit = {"size": 64, "dead": 16}.get(field, 32)
            changes: dict[str, Any] = {field: number & (1 << limit) - 1}
            packs = [pack._replace(**changes) for pack in part.packs]
            return index.encode(keys, name, replace(part, packs=packs))
        case 2:
            sealed = body[head.blocks_at - head.table_length : head.blocks_at]
            aad = b"puller index" + keys.repository_id + head.header + name.encode()
            framed = keys.footer_seal().open(head.nonce, sealed, aad)
            return _with_table(rng, keys, name, head, mutate(rng, framed), body)
        case _:
            content = index._encode_table(part.packs)
            return _with_table(rng, keys, name, head, compression.frame(mutate(rng, content)), body)


def _with_table(
    rng: random.Random, keys: KeyRing, name: str, head: index.IndexHead, framed: bytes, body: bytes
) -> bytes:
    """Another table, and perhaps other counts, in front of the same blocks."""
    packs = rng.choice((head.packs, head.packs, rng.choice(_EXTREMES) & 0xFFFFFFFF))
    rows = rng.choice((head.rows, head.rows, rng.choice(_EXTREMES)))
    header = index._HEADER.pack(b"PULLERIX", 1, keys.cipher, 0, packs, rows, len(framed) + TAG, head.nonce)
    aad = b"puller index" + keys.repository_id + header + name.encode()
    return header + keys.footer_seal().seal(head.nonce, framed, aad) + body[head.blocks_at :]


def _reseal_frame(rng: random.Random, keys: KeyRing, name: str, kind: BoxKind, content: bytes) -> bytes:
    """The seal is right and the compressed frame in it is not."""
    head, nonce = b"PLRB" + bytes((1, kind, keys.cipher, 0)), rng.randbytes(NONCE)
    aad = b"puller box" + keys.repository_id + head + name.encode()
    return head + nonce + keys.footer_seal().seal(nonce, mutate(rng, compression.frame(content)), aad)


def reseal_pack(rng: random.Random, keys: KeyRing, kind: PackKind, pack_id: bytes, body: bytes) -> bytes:
    """A pack whose footer, trailer or slots were changed by somebody who holds the keys."""
    trailer = decode_trailer(body, kind, pack_id)
    needed = TRAILER + trailer.footer_length
    footer = decode_footer(keys, trailer, body[-needed:-TRAILER])
    change = rng.choice((_new_footer, _new_frame, _new_trailer, _new_column, _new_slot, _new_slot))
    return change(rng, keys, trailer, footer, body[:-needed])


def _tail(keys: KeyRing, trailer: Trailer, framed: bytes) -> bytes:
    end = trailer.encode()
    return keys.footer_seal().seal(trailer.nonce, framed, b"puller footer" + keys.repository_id + end) + end


def _new_footer(rng: random.Random, keys: KeyRing, trailer: Trailer, footer: Footer, slots: bytes) -> bytes:
    content = mutate(rng, footer.encode())
    count = rng.choice((trailer.count, max(0, len(content) - 2 - len(footer.key_box)) // (ID + 5)))
    framed = compression.frame(content)
    changed = replace(trailer, count=count, footer_length=len(framed) + TAG)
    return slots + _tail(keys, changed, framed)


def _new_frame(rng: random.Random, keys: KeyRing, trailer: Trailer, footer: Footer, slots: bytes) -> bytes:
    framed = mutate(rng, compression.frame(footer.encode()))
    return slots + _tail(keys, replace(trailer, footer_length=len(framed) + TAG), framed)


def _new_trailer(rng: random.Random, keys: KeyRing, trailer: Trailer, footer: Footer, slots: bytes) -> bytes:
    field = rng.choice(("count", "footer_length", "cipher"))
    number = rng.choice(_EXTREMES) & (0xFF if field == "cipher" else 0xFFFFFFFF)
    changed: dict[str, Any] = {field: number}
    return slots + _tail(keys, replace(trailer, **changed), compression.frame(footer.encode()))


def _new_column(rng: random.Random, keys: KeyRing, trailer: Trailer, footer: Footer, slots: bytes) -> bytes:
    ids, lengths, flags = footer.ids.copy(), footer.lengths.copy(), footer.flags.copy()
    slot = rng.randrange(footer.count)
    match rng.randrange(4):
        case 0:
            lengths[slot] = rng.choice(_EXTREMES) & 0xFFFFFFFF
        case 1:
            flags[slot] = rng.choice((0, 1, 0x80, 0x81, 0xFF))
        case 2:
            ids[slot] = 0
        case _:
            lengths = np.ascontiguousarray(np.roll(lengths, 1))
    tail = encode_tail(keys, trailer.kind, trailer.pack_id, Footer(footer.key_box, ids, lengths, flags))
    return slots + tail


def _new_slot(rng: random.Random, keys: KeyRing, trailer: Trailer, footer: Footer, slots: bytes) -> bytes:
    """Another content under its right id: what only the parsers of pages and roots can notice."""
    slot, kind, pack_id = rng.randrange(footer.count), trailer.kind, trailer.pack_id
    start, stop = int(footer.offsets[slot]), int(footer.offsets[slot + 1])
    try:
        content = SlotReader(keys, kind, pack_id, footer).content(slot, slots[start:stop])
    except PullerError:  # a dead slot
        return _new_footer(rng, keys, trailer, footer, slots)
    changed = mutate(rng, content)
    [(packed, flag)] = compress([changed], 1)
    if rng.random() < 0.1:
        packed, flag = mutate(rng, bytes(packed)), 1
    key = (
        keys.map_key(pack_id) if kind is PackKind.MAP or not keys.cipher else _data_key(keys, footer, pack_id)
    )
    cipher = SlotCipher(keys, pack_id, key)
    sealed = bytearray(len(packed) + cipher.overhead)
    cipher.seal_into(slot, packed, memoryview(sealed))
    ids, lengths, flags = footer.ids.copy(), footer.lengths.copy(), footer.flags.copy()
    ids[slot] = np.frombuffer(content_id(keys.id_key, changed), np.uint8)
    lengths[slot], flags[slot] = len(sealed), flag
    tail = encode_tail(keys, kind, pack_id, Footer(footer.key_box, ids, lengths, flags))
    return slots[:start] + sealed + slots[stop:] + tail


def _data_key(keys: KeyRing, footer: Footer, pack_id: bytes) -> bytes:
    return keys.open_data_key(pack_id, footer.key_box)
