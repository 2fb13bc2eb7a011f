"""Keeps, which protect a restore point from prune and delete (docs/format.md, "Keep").

A point is protected as long as any of its keeps is valid, so two hosts that write at once never undo each
other's keep, whatever their clocks say. Nothing is overwritten: a new keep is put before older ones are
deleted.
"""

from __future__ import annotations

import re
import secrets
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from puller.cancelling import CancelScope, Scoped
from puller.errors import DamagedData, ObjectNotFound
from puller.repository.format import names
from puller.repository.format.packname import ID
from puller.repository.format.sealing import Boxes, BoxKind
from puller.store.base import ObjectInfo, Store
from puller.store.parallel import each
from puller.units import KIB

PREFIX = "kept/"
VERSION = 1

LONGEST_NOTE = 1000
"""Most characters of a note."""

_LIMIT = 64 * KIB
_NAME = re.compile(f"{PREFIX}({names.UUID})/({names.POINT})/{names.RANDOM}")
_PARALLEL_READS = 16

Name = tuple[str, str]
"""A point: (domain uuid, point id)."""


@dataclass(frozen=True, slots=True)
class Keep:
    """The protection of a point until ``until``, without end if that is None.

    ``damage`` says why it cannot be read; then it has no end.
    """

    until: datetime | None = None
    note: str = ""
    damage: str | None = None

    @property
    def reason(self) -> str:
        """Reason for the point to stay."""
        if self.damage is not None:
            return f"kept by a keep that cannot be read: {self.damage}"
        end = "" if self.until is None else f" until {self.until.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
        return f"kept{end}: {self.note}" if self.note else f"kept{end}"

    def holds(self, now: datetime) -> bool:
        """Return whether it is valid at ``now``."""
        return self.until is None or now < self.until


class _Body(msgspec.Struct, frozen=True):
    until: datetime | None = None
    note: str = ""
    version: int = VERSION


_BODIES = msgspec.json.Decoder(_Body)


def point_of(key: str) -> Name | None:
    """Return the point that the keep ``key`` protects; None if the name is not that of a keep."""
    match = _NAME.fullmatch(key)
    return None if match is None else (match[1], match[2])


def longest(keeps: Iterable[Keep], now: datetime) -> Keep | None:
    """Return the keep, of those valid at ``now``, that ends last."""
    holding = [keep for keep in keeps if keep.holds(now)]
    end = datetime.max.replace(tzinfo=UTC)
    return max(
        holding, key=lambda keep: (keep.until is None, keep.until or end, keep.damage is None), default=None
    )


def encode(keep: Keep) -> bytes:
    """Return the content of a keep's box."""
    return msgspec.json.encode(_Body(keep.until, keep.note))


def decode(content: bytes, name: str) -> Keep:
    """Parse the content of a keep's box. Raises DamagedData."""
    try:
        body = _BODIES.decode(content)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise DamagedData(f"{name} is damaged: {error}") from error
    if body.version > VERSION:
        raise DamagedData(f"{name} has format version {body.version}; this puller supports {VERSION}")
    # At the ends of the calendar, the local time would be out of range.
    if body.until is not None and (body.until.tzinfo is None or not 1970 <= body.until.year < 9999):
        raise DamagedData(f"{name} is damaged: its time has no zone or is out of range")
    return Keep(body.until, body.note)


def new_name(point: Name) -> str:
    """Return a name for a new keep of ``point``."""
    return f"{PREFIX}{point[0]}/{point[1]}/{secrets.token_hex(ID)}"


class Keeps(Scoped):
    """The keeps of one repository."""

    def __init__(self, store: Store, boxes: Boxes) -> None:
        self._store = store
        self.scope = store.scope
        self._boxes = boxes

    def listed(self, *name: str) -> list[ObjectInfo]:
        """Return existing keeps, unread: all, those of a domain's UUID, or of a UUID and point id."""
        folder = "".join(f"{part}/" for part in name)
        return [info for info in self._store.list(PREFIX + folder) if point_of(info.key)]

    def holding(self, now: datetime, *name: str) -> Mapping[Name, Keep]:
        """Return by point the keep valid at ``now``; ``name`` as in ``listed``. Raises StoreError."""
        found: defaultdict[Name, list[Keep]] = defaultdict(list)
        infos = self.listed(*name)
        read = each(self.scope, self._read, infos, _PARALLEL_READS)
        for info, keep in zip(infos, read, strict=True):
            if keep is not None and (point := point_of(info.key)):
                found[point].append(keep)
        held = {point: longest(keeps, now) for point, keeps in found.items()}
        return {point: keep for point, keep in held.items() if keep is not None}

    def _read(self, scope: CancelScope, info: ObjectInfo) -> Keep | None:
        """Return the keep; one without end if it cannot be read, None if it is gone."""
        try:
            box = self._store.within(scope).get(info.key, max_size=_LIMIT)
            return decode(self._boxes.unpack(BoxKind.KEEP, info.key, box, _LIMIT), info.key)
        except ObjectNotFound:
            return None
        except DamagedData as error:
            return Keep(damage=error.message)

    def put(self, point: Name, keep: Keep) -> str:
        """Put a keep of ``point``, durable when this returns. Returns the name of the new object."""
        name = new_name(point)
        self.put_as(name, keep)
        return name

    def put_as(self, name: str, keep: Keep) -> None:
        """Put a keep as the object ``name``, which is one of ``new_name``."""
        self._store.put_new(name, self._boxes.pack(BoxKind.KEEP, name, encode(keep)))

    def delete(self, keys: Sequence[str]) -> None:
        """Delete the keeps with these names."""
        self._store.delete(keys)
