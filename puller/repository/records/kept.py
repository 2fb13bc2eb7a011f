"""Keeps: what holds a restore point against prune and delete (docs/format.md, "Keep").

A point is held as long as any of its keeps holds, so of two hosts that write at once none undoes the other's
keep, and no clock decides. Nothing is overwritten: a new keep is put before older ones are deleted.
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
from puller.repository.format.footer import ID
from puller.repository.format.sealing import Boxes, BoxKind
from puller.store.base import ObjectInfo, Store
from puller.store.parallel import each
from puller.units import KIB

PREFIX = "kept/"
VERSION = 1

LONGEST_NOTE = 1000
"""Characters of a note."""

_LIMIT = 64 * KIB
_NAME = re.compile(f"{PREFIX}({names.UUID})/({names.POINT})/{names.RANDOM}")
_PARALLEL_READS = 16

Name = tuple[str, str]
"""A point: (domain uuid, point id)."""


@dataclass(frozen=True, slots=True)
class Keep:
    """What holds a point: until ``until``, without end if that is None.

    ``damage`` says why it cannot be read; then it holds without end.
    """

    until: datetime | None = None
    note: str = ""
    damage: str | None = None

    @property
    def reason(self) -> str:
        """Why the point stays."""
        if self.damage is not None:
            return f"kept by a keep that cannot be read: {self.damage}"
        end = "" if self.until is None else f" until {self.until.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
        return f"kept{end}: {self.note}" if self.note else f"kept{end}"

    def holds(self, now: datetime) -> bool:
        """Whether it holds at ``now``."""
        return self.until is None or now < self.until


class _Body(msgspec.Struct, frozen=True):
    until: datetime | None = None
    note: str = ""
    version: int = VERSION


def point_of(key: str) -> Name | None:
    """The point that the object ``key`` holds. None if it is no keep by its name."""
    match = _NAME.fullmatch(key)
    return None if match is None else (match[1], match[2])


def longest(keeps: Iterable[Keep], now: datetime) -> Keep | None:
    """Of the keeps that hold at ``now`` the one that holds longest."""
    holding = [keep for keep in keeps if keep.holds(now)]
    end = datetime.max.replace(tzinfo=UTC)
    return max(
        holding, key=lambda keep: (keep.until is None, keep.until or end, keep.damage is None), default=None
    )


def encode(keep: Keep) -> bytes:
    """The content of a keep's box."""
    return msgspec.json.encode(_Body(keep.until, keep.note))


def decode(content: bytes, name: str) -> Keep:
    """Parse the content of a keep's box. Raises DamagedData."""
    try:
        body = msgspec.json.decode(content, type=_Body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise DamagedData(f"{name} is damaged: {error}") from error
    if body.version > VERSION:
        raise DamagedData(f"{name} has format version {body.version}; this puller knows {VERSION}")
    # At the ends of the calendar there is no room for the local time.
    if body.until is not None and (body.until.tzinfo is None or not 1970 <= body.until.year < 9999):
        raise DamagedData(f"{name} has a time without a zone or out of all reason")
    return Keep(body.until, body.note)


class Keeps(Scoped):
    """The keeps of one repository."""

    def __init__(self, store: Store, boxes: Boxes) -> None:
        self._store = store
        self.scope = store.scope
        self._boxes = boxes

    def listed(self, *name: str) -> list[ObjectInfo]:
        """The keeps that are there, unread: all, those of a domain's UUID, or of a UUID and a point id."""
        folder = "".join(f"{part}/" for part in name)
        return [info for info in self._store.list(PREFIX + folder) if point_of(info.key)]

    def holding(self, now: datetime, *name: str) -> Mapping[Name, Keep]:
        """By point the keep that holds it at ``now``; ``name`` as in ``listed``. Raises StoreError."""
        found: defaultdict[Name, list[Keep]] = defaultdict(list)
        infos = self.listed(*name)
        read = each(self.scope, self._read, infos, _PARALLEL_READS)
        for info, keep in zip(infos, read, strict=True):
            if keep is not None and (point := point_of(info.key)):
                found[point].append(keep)
        held = {point: longest(keeps, now) for point, keeps in found.items()}
        return {point: keep for point, keep in held.items() if keep is not None}

    def _read(self, scope: CancelScope, info: ObjectInfo) -> Keep | None:
        """The keep, one without end if it cannot be read, None if it is gone."""
        try:
            box = self._store.within(scope).get(info.key, max_size=_LIMIT)
            return decode(self._boxes.unpack(BoxKind.KEEP, info.key, box, _LIMIT), info.key)
        except ObjectNotFound:
            return None
        except DamagedData as error:
            return Keep(damage=error.message)

    def put(self, point: Name, keep: Keep) -> str:
        """Hold ``point``, durably when this returns. Returns the name of the new object."""
        name = f"{PREFIX}{point[0]}/{point[1]}/{secrets.token_hex(ID)}"
        self._store.put_new(name, self._boxes.pack(BoxKind.KEEP, name, encode(keep)))
        return name

    def delete(self, keys: Sequence[str]) -> None:
        """Delete the keeps with these names."""
        self._store.delete(keys)
