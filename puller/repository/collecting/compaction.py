"""A pack stored again, as its next generation, without its dead slots (docs/format.md, "Pack").

::

    <id>.1  | 0 | 1 | 2 | 3 | 4 | footer |          dead: 0, 2, 3
    <id>.2  | 1 | 4 | footer |                      slots 0, 2, 3 have length 0 and the flag DEAD

Stored bytes are copied as they are, and an address is (pack, slot): no map or key is involved, so a
host that may not read guest data can compact too. A reader that finds the older generation gone looks for
the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from puller.repository.format.bits import bits_of, column_of
from puller.repository.format.footer import DEAD, Footer, encode_tail
from puller.repository.format.index import IndexedPack
from puller.repository.keys.keyring import KeyRing
from puller.repository.reading.packs import PackReader, StoredPack, merge
from puller.store.base import Store


def present(footer: Footer) -> int:
    """Return the set of the slots that are not dead."""
    return bits_of(footer.flags & DEAD == 0)


def without(footer: Footer, dead: int) -> Footer:
    """Return the footer of the pack without the slots in the set ``dead``."""
    gone = column_of(dead, footer.count)
    ids, lengths, flags = footer.ids.copy(), footer.lengths.copy(), footer.flags.copy()
    ids[gone], lengths[gone], flags[gone] = 0, 0, DEAD
    return Footer(footer.key_box, ids, lengths, flags, footer.origins)


def compacted(keys: KeyRing, pack: IndexedPack, dead: int) -> IndexedPack:
    """Return ``pack`` as it is after compaction."""
    footer = without(pack.footer, dead)
    tail = encode_tail(keys, pack.kind, pack.pack_id, footer)
    size = int(footer.offsets[-1]) + len(tail)
    return IndexedPack(pack.kind, pack.pack_id, size, footer, pack.generation + 1)


def compact(store: Store, keys: KeyRing, reader: PackReader, pack: StoredPack, dead: int) -> int:
    """Put the next generation of a pack that ``reader`` has opened, without the slots ``dead``.

    Returns the number of saved bytes. The older generation stays. Raises ObjectExists if another process has
    put the next one, ObjectChanged if this one is gone, StoreError.
    """
    footer = without(pack.footer, dead)
    body = bytearray()
    for stored in _stored(reader, pack, np.flatnonzero(footer.lengths).tolist()):
        body += stored
    body += encode_tail(keys, pack.kind, pack.pack_id, footer)
    store.put_new(pack.kind.object_name(pack.pack_id, pack.generation + 1), body)
    reader.forget(pack.pack_id)
    return pack.size - len(body)


def _stored(reader: PackReader, pack: StoredPack, slots: Sequence[int]) -> Iterator[memoryview]:
    """The bytes of some slots, in their order."""
    for span, stored in reader.fetch(pack, list(merge(pack.footer, slots))):
        for slot in span.slots:
            start = int(pack.footer.offsets[slot]) - span.offset
            yield stored[start : start + int(pack.footer.lengths[slot])]


def _seals(footer: Footer) -> tuple[bytes, bytes | None]:
    """What opens the slots of a pack; all generations have the same."""
    return footer.key_box, None if footer.origins is None else footer.origins.encode()


def is_copied(reader: PackReader, low: StoredPack, high: StoredPack, slots: int) -> bool:
    """Whether a generation has those of ``slots`` that a lower one has, byte for byte.

    Raises ObjectChanged if one of them is gone.
    """
    wanted = slots & present(low.footer)
    if wanted & ~present(high.footer) or _seals(low.footer) != _seals(high.footer):
        return False
    chosen = np.flatnonzero(column_of(wanted, low.footer.count))
    columns = ((pack.footer.ids, pack.footer.lengths, pack.footer.flags) for pack in (low, high))
    if not all((one[chosen] == other[chosen]).all() for one, other in zip(*columns, strict=True)):
        return False
    pieces = (_stored(reader, pack, chosen.tolist()) for pack in (low, high))
    return all(one == other for one, other in zip(*pieces, strict=True))
