"""Restore points: the commit records, and how a user names one (docs/format.md, "Point")."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from functools import cache
from itertools import groupby
from operator import itemgetter

import msgspec

from puller.cancelling import CancelScope, Scoped, cleanup
from puller.errors import (
    AmbiguousPoint,
    DamagedData,
    NoSuchPoint,
    ObjectExists,
    ObjectNotFound,
    PullerError,
    StoreError,
    UnknownKind,
    UnsupportedFormat,
)
from puller.repository.format.address import Address, check_address
from puller.repository.format.names import POINT, UUID
from puller.repository.format.sealing import BOX_LIMIT, Boxes, BoxKind
from puller.repository.machines import names_of
from puller.store.base import Store
from puller.store.objectlock import ObjectLock
from puller.store.parallel import each

PREFIX = "points/"
VERSION = 1

_ID = re.compile(POINT)
_TARGET = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_UUID = re.compile(UUID)
_PARALLEL_READS = 16
"""Parallel reads: as many as the S3 client has connections."""

AHEAD = timedelta(days=1)
"""A point dated further ahead of now was dated by a wrong clock, or its name was forged."""

MOMENT = len("20261123T050000Z")
"""Characters of a point id for its second. The rest of the id is random and gives no order."""


class Ref(msgspec.Struct, frozen=True):
    """An address as JSON."""

    pack: str
    slot: int

    @property
    def address(self) -> Address:
        """Return the address. Raises DamagedData if it is invalid."""
        return check_address(self.pack, self.slot)

    @classmethod
    def to(cls, address: Address) -> Ref:
        """Return the JSON form of ``address``."""
        return cls(address.pack.hex(), address.slot)


class DataFileRecord(msgspec.Struct, frozen=True):
    """Facts about the external data file of a qcow2 image when the point was taken, as in ImageRecord."""

    path: str
    inode: int = 0
    born: str = ""
    size: int = 0
    modified: str = ""


class ImageRecord(msgspec.Struct, frozen=True):
    """Facts about a disk's image file, and the QEMU that had it open, when the point was taken.

    ``born``, ``qemu`` and ``modified`` are texts for comparison; they and ``inode`` are empty or 0 if
    unknown. ``data`` is the image's external data file, if it has one.
    """

    inode: int = 0
    born: str = ""
    size: int = 0
    qemu: str = ""
    modified: str = ""
    data: DataFileRecord | None = None


class DiskRecord(msgspec.Struct, frozen=True):
    """One disk of a point. Sizes are in bytes; docs/cli.md, "POINT-RECORD", describes each member."""

    disk: str
    kind: str
    size: int
    root: Ref
    format: str = ""
    source: str = ""
    backing: tuple[str, ...] = ()
    image: ImageRecord = ImageRecord()
    whole: str | None = None
    encryption: str = ""
    parent: str | None = None
    reason: str = ""
    dirty_bytes: int = 0
    read_bytes: int = 0
    zero_bytes: int = 0
    new_bytes: int = 0
    stored_bytes: int = 0


class Attachment(msgspec.Struct, frozen=True):
    """Stored content of a point other than disks, such as ``domain.xml``; ``size`` in bytes.

    ``time`` is when it was read, by the host's clock.
    """

    name: str
    size: int
    root: Ref
    time: datetime | None = None


class GuestCommandRecord(msgspec.Struct, frozen=True):
    """A command in the guest around its freeze; docs/cli.md, "POINT-RECORD", describes each member."""

    when: str
    words: tuple[str, ...]
    exit_code: int | None
    seconds: float
    output: str


class Origin(msgspec.Struct, frozen=True):
    """Where a copied point was taken: the id of the repository, and the point's id there."""

    repository: str
    point: str


class Point(msgspec.Struct, frozen=True):
    """A restore point: the state of a domain at one instant. ``point`` is its id.

    docs/cli.md, "POINT-RECORD", describes each member.
    """

    point: str
    domain: str
    uuid: str
    time: datetime
    mode: str
    kind: str
    disks: tuple[DiskRecord, ...]
    parent: str | None = None
    previous: str | None = None
    checkpoint: str | None = None
    checkpoint_xml: str | None = None
    consistency: str = "crash"
    freeze_seconds: float | None = None
    guest_commands: tuple[GuestCommandRecord, ...] = ()
    scratch_peak: int | None = None
    tags: dict[str, str] = {}
    host: str = ""
    seconds: float = 0.0
    attachments: tuple[Attachment, ...] = ()
    notes: tuple[str, ...] = ()
    locked_until: datetime | None = None
    copied_from: Origin | None = None
    version: int = VERSION

    def disk(self, target: str) -> DiskRecord | None:
        """Return the record of the disk ``target``; None if the point lacks it."""
        return next((record for record in self.disks if record.disk == target), None)

    def roots(self) -> set[Address]:
        """Return the addresses of the maps of its disks and attachments. Raises DamagedData."""
        disks = {disk.root.address for disk in self.disks}
        return disks | {item.root.address for item in self.attachments}

    def is_from(self, hosts: Collection[str]) -> bool:
        """Return whether one of ``hosts``, names or patterns, took the point. Without any, all match."""
        return not hosts or any(self.host == host or fnmatchcase(self.host, host) for host in hosts)


_POINTS = msgspec.json.Decoder(Point)


class _Head(msgspec.Struct):
    version: int


_HEADS = msgspec.json.Decoder(_Head)


def new_id(moment: datetime) -> str:
    """Return a new point id for the UTC time ``moment``."""
    return f"{moment:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"


def time_of(point_id: str) -> datetime:
    """Return the time at the start of a point id. An impossible time counts as the earliest."""
    try:
        return datetime.strptime(point_id[:16], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)


def kind_of(disks: Sequence[DiskRecord]) -> str:
    """Return a point's kind: that of its disks, or ``mixed``; ``configuration`` if it has none."""
    kinds = {record.kind for record in disks} or {"configuration"}
    return kinds.pop() if len(kinds) == 1 else "mixed"


def in_order(points: Iterable[Point]) -> list[Point]:
    """Sort oldest first. A point comes after its parent of the same time."""
    known = {(point.uuid, point.point): point for point in points}
    return sorted(known.values(), key=lambda point: (point.time, _generation(point, known), point.point))


def _generation(point: Point, known: Mapping[tuple[str, str], Point]) -> int:
    """Return how many ancestors of ``point`` have the same time."""
    count, parent = 0, known.get((point.uuid, point.parent or ""))
    while parent is not None and parent.time == point.time and count < len(known):
        count, parent = count + 1, known.get((parent.uuid, parent.parent or ""))
    return count


def newest_first(point_ids: Iterable[str], read: Callable[[str], Point | None]) -> Iterator[Point]:
    """The points of one domain that ``read`` gives, the reverse of ``in_order``, read as they are asked for.

    Ids order by the second; within one, only the records say which was taken from which.
    """
    for _, group in groupby(sorted(point_ids, reverse=True), key=lambda point_id: point_id[:MOMENT]):
        yield from reversed(in_order(filter(None, map(read, group))))


def newest_of(points: Iterable[Point]) -> str | None:
    """Return the id of the newest of some points of one domain; None without points."""
    ordered = in_order(points)
    return ordered[-1].point if ordered else None


def object_name(uuid: str, point_id: str) -> str:
    """Return the name of a point's object."""
    return f"{PREFIX}{uuid}/{point_id}"


def parse_name(key: str, prefix: str) -> tuple[str, str] | None:
    """Return (domain uuid, point id) from an object's name; None if it is foreign."""
    uuid, _, point_id = key.removeprefix(prefix).partition("/")
    return (uuid, point_id) if _UUID.fullmatch(uuid) and _ID.fullmatch(point_id) else None


def decode(content: bytes, name: str) -> Point:
    """Parse and validate a record. Raises DamagedData or UnsupportedFormat."""
    try:
        head = _HEADS.decode(content)
        if head.version > VERSION:
            raise UnsupportedFormat(
                f"{name} has format version {head.version}; this puller supports {VERSION}"
            )
        point = _POINTS.decode(content)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise DamagedData(f"{name} is damaged: {error}") from error
    # A restore makes file names from a record, so names are checked even though records are sealed.
    targets = [record.disk for record in point.disks] + [item.name for item in point.attachments]
    if (
        not all(_TARGET.fullmatch(target) for target in targets)
        or object_name(point.uuid, point.point) != name
    ):
        raise DamagedData(f"{name} is damaged: it holds invalid names")
    # At the ends of the calendar, the local time would be out of range.
    times = [point.time] + [item.time for item in point.attachments if item.time is not None]
    times += [] if point.locked_until is None else [point.locked_until]
    if any(moment.tzinfo is None or not 1970 <= moment.year < 9999 for moment in times):
        raise DamagedData(f"{name} is damaged: its time has no zone or is out of range")
    return point


class Points(Scoped):
    """The restore points of one repository."""

    def __init__(self, store: Store, boxes: Boxes) -> None:
        self._store = store
        self.scope = store.scope
        self._boxes = boxes

    def names(self, uuid: str | None = None) -> list[tuple[str, str]]:
        """Return (domain uuid, point id) of every point, without reading the records. Skips empty objects."""
        found = []
        for info in self._store.list(PREFIX if uuid is None else f"{PREFIX}{uuid}/"):
            name = parse_name(info.key, PREFIX)
            if name is not None and info.size:
                found.append(name)
        return found

    def get(self, uuid: str, point_id: str) -> Point:
        """Read one point. Raises NoSuchPoint, DamagedData."""
        name = object_name(uuid, point_id)
        try:
            box = self._store.get(name, max_size=BOX_LIMIT)
        except ObjectNotFound as error:
            raise NoSuchPoint(f"no restore point {point_id}") from error
        try:
            return decode(self._boxes.unpack(BoxKind.POINT, name, box), name)
        except UnknownKind as error:
            raise NoSuchPoint(error.message, advice=error.advice) from error

    def all(self, damaged: Callable[[str, DamagedData], None] | None = None) -> list[Point]:
        """Return every point, oldest first. A damaged record raises, or is passed to ``damaged`` if given."""
        return self.read(self.names(), damaged)

    def read(
        self,
        names: Iterable[tuple[str, str]],
        damaged: Callable[[str, DamagedData], None] | None = None,
    ) -> list[Point]:
        """Return the points with these (domain uuid, point id), oldest first; see ``all``."""
        return in_order(self._load(names, damaged))

    def of(self, domain: str, damaged: Callable[[str, DamagedData], None] | None = None) -> list[Point]:
        """Return the points of a domain (name or UUID), oldest first; damaged records are as in ``all``.

        Only the records of that domain are read, and for a name also one of each other domain.
        """
        names = self.names(domain) if _UUID.fullmatch(domain) else names_of(self, domain)
        found = self._load(names, damaged)
        return in_order(point for point in found if domain in (point.domain, point.uuid))

    def newest(self, uuid: str, count: int) -> list[Point]:
        """Return the ``count`` newest readable points of a domain, oldest first."""
        names = sorted(self.names(uuid), reverse=True)
        return in_order(self._load(names[:count], lambda *_: None))

    def by_domain(self, damaged: Callable[[str, DamagedData], None] | None = None) -> Iterator[list[Point]]:
        """Yield the points of each domain, oldest first, by UUID, and read one domain after the other.

        A domain without a readable point is left out. Damaged records are as in ``all``.
        """
        for _, names in groupby(sorted(self.names()), key=itemgetter(0)):
            if found := in_order(self._load(list(names), damaged)):
                yield found

    def _load(
        self, names: Iterable[tuple[str, str]], damaged: Callable[[str, DamagedData], None] | None
    ) -> list[Point]:
        bound = cache(self.within)  # the scope is one for all

        def load(scope: CancelScope, name: tuple[str, str]) -> Point | None:
            try:
                return bound(scope).get(*name)
            except NoSuchPoint:
                return None  # deleted since it was listed
            except DamagedData as error:
                if damaged is None:
                    raise
                damaged(name[1], error)
                return None

        return [point for point in each(self.scope, load, names, _PARALLEL_READS) if point is not None]

    def locking(self, lock: ObjectLock) -> Points:
        """Return the same points; what it commits is locked."""
        return Points(self._store.locking(lock), self._boxes)

    def commit(self, point: Point) -> None:
        """Publish ``point``, only if it is absent.

        If the answer of the store was lost, the record is looked up. Raises StoreError if it is not
        there. Should a lost put take effect later still, the point is whole and harmless: all it needs
        was durable before, and no checkpoint is tied to it any more.
        """
        name = object_name(point.uuid, point.point)
        box = self._boxes.pack(BoxKind.POINT, name, msgspec.json.encode(point))
        try:
            self._store.put_new(name, box)
        except StoreError as error:
            if not self._holds(name, box):
                if isinstance(error, ObjectExists):
                    raise DamagedData(f"{name} exists already with other content") from error
                raise

    def delete(self, names: Iterable[tuple[str, str]]) -> None:
        """Delete the points with these (domain uuid, point id); prune removes what only they reach."""
        self._store.delete([object_name(*name) for name in names])

    def stands(self, name: tuple[str, str]) -> bool:
        """Return whether the point with this (domain uuid, point id) exists, readable or not."""
        return name in self.names(name[0])

    def holds(self, point: Point) -> bool:
        """Return whether ``point`` exists, if the store answers soon. A commit adds the end of its locks."""
        with suppress(PullerError):
            found = self.within(cleanup()).get(point.uuid, point.point)
            return msgspec.structs.replace(found, locked_until=point.locked_until) == point
        return False

    def _holds(self, name: str, box: bytes) -> bool:
        try:
            return self._store.get(name, max_size=BOX_LIMIT) == box
        except StoreError:
            return False

    def select(self, text: str, hosts: Collection[str] = ()) -> Point:
        """Return the point for an id, a unique prefix, ``DOMAIN@latest`` or ``DOMAIN@TIME``.

        Only points of ``hosts``, names or patterns, count. Raises AmbiguousPoint without ``hosts`` if several
        hosts took points of the domain.
        """
        if "@" in text:
            domain, moment = text.rsplit("@", 1)
            return self._by_time(domain, moment, hosts)
        return self.get(*self.find(text))

    def locate(self, text: str, hosts: Collection[str] = ()) -> tuple[str, str]:
        """Like ``select``, but without reading the record of a point that is named by its id."""
        if "@" not in text:
            return self.find(text)
        point = self.select(text, hosts)
        return point.uuid, point.point

    def find(self, text: str) -> tuple[str, str]:
        """Return (domain uuid, point id) for an id or a unique prefix, without reading the record."""
        matches = [name for name in self.names() if name[1].startswith(text)]
        exact = [name for name in matches if name[1] == text]
        if not matches or not text:
            raise NoSuchPoint(
                f"no restore point begins with '{text}'",
                advice="List the restore points with 'puller points', or name the newest of a domain as "
                "DOMAIN@latest.",
            )
        if len(matches) > 1 and len(exact) != 1:
            shown = ", ".join(sorted(name[1] for name in matches)[:4])
            begin = ", such as" if len(matches) > 4 else ":"
            raise AmbiguousPoint(f"'{text}' matches {len(matches)} restore points{begin} {shown}")
        return (exact or matches)[0]

    def _by_time(self, domain: str, moment: str, hosts: Collection[str]) -> Point:
        limit = None if moment == "latest" else _parse_time(moment)
        damaged: dict[str, DamagedData] = {}
        found = self.of(domain, damaged.__setitem__)
        mine = [point for point in found if point.is_from(hosts)]
        if not found and damaged:
            raise next(iter(damaged.values()))
        if not mine:
            raise NoSuchPoint(f"no restore point of domain '{domain}'{_taken_on(hosts)}")
        _require_one_domain(domain, mine, f"@{moment}")
        fitting = [point for point in mine if limit is None or point.time <= limit]
        if not fitting:
            raise NoSuchPoint(
                f"no restore point of domain '{domain}'{_taken_on(hosts)} at or before {moment}"
            )
        if not hosts:
            _require_one_host(domain, fitting)
        self._refuse_older(fitting[-1], limit, damaged)
        return fitting[-1]

    def history(self, domain: str, hosts: Collection[str] = ()) -> list[Point]:
        """Return the points of one machine, by name or UUID, oldest first.

        Raises NoSuchPoint if there are none, and AmbiguousPoint as ``select`` does: points of two machines do
        not follow one another.
        """
        found = [point for point in self.of(domain) if point.is_from(hosts)]
        if not found:
            raise NoSuchPoint(f"no restore point of domain '{domain}'{_taken_on(hosts)}")
        _require_one_domain(domain, found, "")
        if not hosts:
            _require_one_host(domain, found)
        return found

    def _refuse_older(self, chosen: Point, limit: datetime | None, damaged: dict[str, DamagedData]) -> None:
        """Raise if a damaged record hides a point that is newer than the chosen one and would fit.

        A name alone is not authenticated: one that is dated days ahead hides nothing.
        """
        limit = limit or datetime.now(UTC) + AHEAD
        last = f"{limit.astimezone(UTC):%Y%m%dT%H%M%SZ}-g"
        for _, point_id in self.names(chosen.uuid) if damaged else ():
            if point_id in damaged and chosen.point[:MOMENT] <= point_id < last:
                raise DamagedData(
                    damaged[point_id].message,
                    advice=f"Use the id of the newest readable point: {chosen.point}.",
                )


def _taken_on(hosts: Collection[str]) -> str:
    return f" was taken on {', '.join(hosts)}" if hosts else ""


def _require_one_domain(domain: str, points: Iterable[Point], suffix: str) -> None:
    uuids = sorted({point.uuid for point in points})
    if len(uuids) > 1:
        raise AmbiguousPoint(
            f"{len(uuids)} domains have had the name '{domain}': {', '.join(uuids)}",
            advice=f"Use the UUID of the domain, such as {uuids[-1]}{suffix}.",
        )


def _require_one_host(domain: str, points: Iterable[Point]) -> None:
    """A copy of a domain has the same UUID: the selected point must not depend on which ran last."""
    newest = {point.host: point for point in points}
    if len(newest) > 1:
        last = max(newest.values(), key=lambda point: (point.time, point.point)).host
        raise AmbiguousPoint(
            f"points of domain '{domain}' were taken on {len(newest)} hosts: {', '.join(sorted(newest))}",
            advice=f"Add the host, such as --host {last}, or take the newest of all with --host '*'.",
        )


def _parse_time(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise NoSuchPoint(
            f"invalid time '{text}'",
            advice="Use DOMAIN@latest or a time such as DOMAIN@2026-11-23T05:00:00Z.",
        ) from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
