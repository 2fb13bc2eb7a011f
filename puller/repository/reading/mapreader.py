"""Reading of roots and pages from the store, pack by pack."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Generator, Iterable, Sequence

from puller.cancelling import CancelScope, Scoped
from puller.errors import DamagedData
from puller.repository.format.address import Address
from puller.repository.format.packname import PackKind
from puller.repository.format.pages import (
    ZERO,
    PackTable,
    Refs,
    Root,
    chunks_in_page,
    decode_page,
    decode_root,
)
from puller.repository.reading.packs import PackReader
from puller.store.parallel import READERS, each
from puller.units import page_count

_ROOTS = 20
"""Roots that are read at once: one of a large disk takes megabytes."""


class MapReader(Scoped):
    """Reads the maps of one repository."""

    def __init__(self, packs: PackReader, table: PackTable) -> None:
        self._packs = packs
        self.scope = packs.scope
        self.table = table

    def root(self, address: Address) -> Root:
        """Return the root at ``address``. Raises DamagedData, MissingObject."""
        content = self._packs.read(PackKind.MAP, address.pack, [address.slot])[address.slot]
        return decode_root(content, self.table)

    def roots(self, addresses: Iterable[Address]) -> Generator[Root | DamagedData]:
        """Yield the roots at ``addresses``, in order; for an unreadable one its error.

        A few are fetched ahead, so memory does not grow with their number.
        """
        yield from each(self.scope, self._root_or_fault, addresses, _ROOTS, ahead=1)

    def _root_or_fault(self, scope: CancelScope, address: Address) -> Root | DamagedData:
        try:
            return self.within(scope).root(address)
        except DamagedData as error:
            return error

    def pages(self, root: Root, numbers: Sequence[int]) -> dict[int, Refs]:
        """Return the numbered pages. Reads each map pack once. Raises DamagedData, MissingObject."""
        found: dict[int, Refs] = {}
        wanted: dict[int, list[int]] = defaultdict(list)
        for number in numbers:
            pack = int(root.pages.packs[number])
            if pack == ZERO:
                found[number] = Refs.zeros(chunks_in_page(root.size, number))
            else:
                wanted[pack].append(number)

        def read(scope: CancelScope, pack: int) -> dict[int, Refs]:
            return self.within(scope)._pages_of(root, pack, wanted[pack])

        if len(wanted) < 2:  # threads are not worth it
            parts: Iterable[dict[int, Refs]] = (read(self.scope, pack) for pack in wanted)
        else:
            parts = each(self.scope, read, wanted, READERS)
        for part in parts:
            found |= part
        return found

    def _pages_of(self, root: Root, pack: int, members: Sequence[int]) -> dict[int, Refs]:
        slots = {number: int(root.pages.slots[number]) for number in members}
        contents = self._packs.read(PackKind.MAP, self.table.pack_id(pack), list(slots.values()))
        return {
            number: decode_page(contents[slot], self.table, chunks_in_page(root.size, number))
            for number, slot in slots.items()
        }

    def rebase(self, root: Root, size: int) -> Root:
        """Return ``root`` for a disk that now has ``size`` bytes: cut, or continued with zeros.

        A page whose number of chunks changes cannot be shared; DiskMap writes it again.
        """
        return Root(size, root.pages.resized(page_count(size)))
