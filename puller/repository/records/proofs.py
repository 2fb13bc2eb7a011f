"""Proofs, the verdicts of restore drills (docs/format.md, "Proof").

Nothing needs them to read a point, so what cannot be read is passed over. Times of objects are the store's.
"""

from __future__ import annotations

import re
import secrets
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeVar

import msgspec

from puller.cancelling import CancelScope, Scoped
from puller.errors import DamagedData, ObjectNotFound
from puller.repository.format import names
from puller.repository.format.packname import ID
from puller.repository.format.sealing import BoxKind
from puller.repository.keys.keyring import KeyRing
from puller.store.base import ObjectInfo, Store
from puller.store.parallel import each
from puller.units import KIB, MIB

PREFIX = "proofs/"
VERSION = 1

Verdict = Literal["proven", "partial", "failed"]
"""Whether the machine started, only its file systems were checked, or neither was right."""

LONGEST_LOG = 16 * KIB
"""Most characters of a log."""

LONGEST_TEXT = 1000
"""Most characters of any other text."""

LARGEST_SCREENSHOT = 256 * KIB
"""Most bytes of a PNG."""

KEPT = 10
"""Number of proofs of a point that a prune keeps."""

_LONGEST_SECONDS = 366.0 * 24 * 60 * 60
_LIMIT = MIB
_NAME = re.compile(f"{PREFIX}({names.UUID})/({names.POINT})/{names.RANDOM}")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_PARALLEL_READS = 16

K = TypeVar("K")
Name = tuple[str, str]
"""A point: (domain uuid, point id)."""


@dataclass(frozen=True, slots=True)
class Proof:
    """Verdict of one restore drill.

    Attributes:
        time: When the drill ended, by the clock of its host.
        verdict: ``proven``, ``partial`` or ``failed``.
        domain: The domain's name in the point.
        host: The host that ran the drill.
        evidence: What the guest gave or was waited for, such as ``agent`` or ``console:login:``.
        seconds: Seconds from the start of the machine to the evidence; None without evidence.
        reason: Why the verdict is not ``proven``; else empty.
        log: The end of what the serial console printed; empty if the key may not read guest data.
        screenshot: The screen at the end as PNG; None without one, or if the key may not read guest data.
    """

    time: datetime
    verdict: Verdict
    domain: str = ""
    host: str = ""
    evidence: str = ""
    seconds: float | None = None
    reason: str = ""
    log: str = ""
    screenshot: bytes | None = None


class _Guest(msgspec.Struct, frozen=True):
    log: str = ""
    screenshot: bytes | None = None


_GUESTS = msgspec.json.Decoder(_Guest)


class _Body(msgspec.Struct, frozen=True):
    time: datetime
    verdict: Verdict
    domain: str = ""
    host: str = ""
    evidence: str = ""
    seconds: float | None = None
    reason: str = ""
    guest: bytes = b"{}"
    version: int = VERSION


_BODIES = msgspec.json.Decoder(_Body)


def point_of(key: str) -> Name | None:
    """Return the point that the proof ``key`` is about; None if the name is not that of a proof."""
    match = _NAME.fullmatch(key)
    return None if match is None else (match[1], match[2])


def printable(text: str) -> str:
    """Return ``text`` without control characters other than tabs and line feeds."""
    return _CONTROL.sub("", text.replace("\r\n", "\n"))


def fitted(proof: Proof) -> Proof:
    """Return the proof as it is stored: cut to what readers take, and without control characters."""
    domain, host, evidence, reason = (
        printable(text)[:LONGEST_TEXT] for text in (proof.domain, proof.host, proof.evidence, proof.reason)
    )
    picture = proof.screenshot
    fits = picture is not None and len(picture) <= LARGEST_SCREENSHOT
    log = printable(proof.log)[-LONGEST_LOG:]
    said = (domain, host, evidence, proof.seconds, reason, log)
    return Proof(proof.time, proof.verdict, *said, picture if fits else None)


def encode(proof: Proof, name: str, keys: KeyRing) -> bytes:
    """Return the content of the box ``name``."""
    fit = fitted(proof)
    guest = msgspec.json.encode(_Guest(fit.log, fit.screenshot))
    sealed = keys.seal_guest_data(guest, _info(name, keys))
    said = (fit.domain, fit.host, fit.evidence, fit.seconds, fit.reason)
    return msgspec.json.encode(_Body(fit.time, fit.verdict, *said, sealed))


def decode(content: bytes, name: str, keys: KeyRing) -> Proof:
    """Parse the content of the box ``name``. Raises DamagedData."""
    try:
        body = _BODIES.decode(content)
        guest = _Guest()
        if keys.can_read_data:
            opened = keys.open_guest_data(body.guest, _info(name, keys))
            guest = _GUESTS.decode(opened)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise DamagedData(f"{name} is damaged: {error}") from error
    if body.version > VERSION:
        raise DamagedData(f"{name} has format version {body.version}; this puller supports {VERSION}")
    if body.seconds is not None and not 0 <= body.seconds < _LONGEST_SECONDS:
        raise DamagedData(f"{name} is damaged: its seconds are out of range")
    # At the ends of the calendar, the local time would be out of range.
    if body.time.tzinfo is None or not 1970 <= body.time.year < 9999:
        raise DamagedData(f"{name} is damaged: its time has no zone or is out of range")
    said = (body.domain, body.host, body.evidence, body.seconds, body.reason)
    return Proof(body.time, body.verdict, *said, guest.log, guest.screenshot)


def _info(name: str, keys: KeyRing) -> bytes:
    return b"puller v1 proof" + keys.repository_id + name.encode()


def superfluous(infos: Iterable[ObjectInfo], standing: Collection[Name]) -> list[str]:
    """Return the names of proofs that nobody needs; ``standing`` are the points that are there.

    Of a point that is gone, only the newest proof of its domain stays, as long as the domain has a point.
    """
    machines = {uuid for uuid, _ in standing}
    by_point: defaultdict[Name, list[ObjectInfo]] = defaultdict(list)
    newest: dict[str, ObjectInfo] = {}
    for info in sorted(infos, key=_age):
        if (point := point_of(info.key)) is not None:
            by_point[point].append(info)
            newest.setdefault(point[0], info)
    kept = {newest[uuid].key for uuid in machines & newest.keys()}
    for point in by_point.keys() & set(standing):
        kept.update(info.key for info in by_point[point][:KEPT])
    return sorted(info.key for found in by_point.values() for info in found if info.key not in kept)


def _age(info: ObjectInfo) -> tuple[float, str]:
    """Sort the newest first; of one moment, any order is right, but always the same."""
    return (-info.modified, info.key)


class Proofs(Scoped):
    """The proofs of one repository."""

    def __init__(self, store: Store, keys: KeyRing) -> None:
        self._store = store
        self.scope = store.scope
        self._keys = keys
        self._boxes = keys.boxes()

    def listed(self, *name: str) -> list[ObjectInfo]:
        """Return existing proofs, unread, the newest first: all, those of a UUID, or of a UUID and point."""
        folder = "".join(f"{part}/" for part in name)
        found = [info for info in self._store.list(PREFIX + folder) if info.size and point_of(info.key)]
        return sorted(found, key=_age)

    def newest(self, *name: str) -> Mapping[Name, Proof]:
        """Return by point the newest readable proof; ``name`` as in ``listed``. Raises StoreError."""
        return self._newest(self.listed(*name), lambda point: point)

    def newest_of_domains(self) -> Mapping[str, Proof]:
        """Return by domain UUID the newest readable proof of any point, also of one that is gone."""
        return self._newest(self.listed(), lambda point: point[0])

    def _newest(self, infos: Iterable[ObjectInfo], group_of: Callable[[Name], K]) -> Mapping[K, Proof]:
        groups: defaultdict[K, list[str]] = defaultdict(list)
        for info in infos:
            if (point := point_of(info.key)) is not None:
                groups[group_of(point)].append(info.key)
        read = each(self.scope, self._first, groups.values(), _PARALLEL_READS)
        return {group: proof for group, proof in zip(groups, read, strict=True) if proof is not None}

    def _first(self, scope: CancelScope, keys: Iterable[str]) -> Proof | None:
        """Return the first proof that can be read."""
        return next(filter(None, (self._read(scope, key) for key in keys)), None)

    def _read(self, scope: CancelScope, key: str) -> Proof | None:
        try:
            box = self._store.within(scope).get(key, max_size=_LIMIT)
            return decode(self._boxes.unpack(BoxKind.PROOF, key, box, _LIMIT), key, self._keys)
        except (ObjectNotFound, DamagedData):
            return None

    def times(self) -> Mapping[str, float]:
        """Return by domain UUID when its newest proof was stored, without reading any."""
        found: dict[str, float] = {}
        for info in self.listed():
            if (point := point_of(info.key)) is not None:
                found.setdefault(point[0], info.modified)
        return found

    def put(self, point: Name, proof: Proof) -> str:
        """Put a proof of ``point``, durable when this returns. Returns the name of the new object."""
        name = f"{PREFIX}{point[0]}/{point[1]}/{secrets.token_hex(ID)}"
        self._store.put_new(name, self._boxes.pack(BoxKind.PROOF, name, encode(proof, name, self._keys)))
        return name

    def delete(self, keys: Sequence[str]) -> None:
        """Delete the proofs with these names."""
        self._store.delete(keys)
