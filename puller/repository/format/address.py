"""Where a stored content is: a pack and a slot in it (docs/format.md, "Point")."""

from __future__ import annotations

from typing import NamedTuple

from puller.errors import DamagedData


class Address(NamedTuple):
    """Location of a stored content."""

    pack: bytes
    slot: int


def check_address(pack: str, slot: int) -> Address:
    """Return an address from its JSON members. Raises DamagedData."""
    try:
        address = Address(bytes.fromhex(pack), slot)
    except ValueError as error:
        raise DamagedData(f"{pack!r} is not the id of a pack") from error
    if len(address.pack) != 16 or not 0 <= slot < 65536:
        raise DamagedData(f"{pack!r}, {slot} is not an address")
    return address
