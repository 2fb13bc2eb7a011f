"""POINT-RECORD: a restore point as the JSON of docs/cli.md, and as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from puller.cli.output.results import proofs as verdicts
from puller.cli.output.results.tables import facts, table
from puller.cli.output.streams.console import printable
from puller.cli.output.times import age, duration, local, rfc3339, utc
from puller.units import format_bytes

if TYPE_CHECKING:
    from puller.repository.points import DiskRecord, Point
    from puller.repository.records.kept import Keep
    from puller.repository.records.proofs import Proof

_NO_KEEPS: Mapping[tuple[str, str], Keep] = MappingProxyType({})
_NO_PROOFS: Mapping[tuple[str, str], Proof] = MappingProxyType({})


_OF_POINT = (
    *("point", "domain", "uuid", "time", "mode", "kind", "parent", "previous", "checkpoint"),
    *(
        "consistency",
        "freeze_seconds",
        "guest_commands",
        "scratch_peak",
        "host",
        "tags",
        "notes",
        "disks",
        "seconds",
    ),
)
_OF_COMMAND = ("when", "words", "exit_code", "seconds", "output")
_SIZES = ("dirty_bytes", "read_bytes", "zero_bytes", "new_bytes", "stored_bytes")
_OF_DISK = ("disk", "kind", "size", "parent", "format", "encryption", "reason", *_SIZES)


def moment(time: datetime | None) -> str | None:
    """Return the time in JSON, or null."""
    return None if time is None else rfc3339(time)


def record(point: Point, keep: Keep | None = None, proof: Proof | None = None) -> dict[str, Any]:
    """Return the members of a point in lists; ``keep`` is its keep, ``proof`` its newest proof, if any."""
    disks = [{name: getattr(disk, name) for name in _OF_DISK} for disk in point.disks]
    said = {name: getattr(point, name) for name in _OF_POINT}
    held = (
        None
        if keep is None
        else {
            "until": moment(keep.until),
            "note": keep.note,
            "damage": keep.damage,
        }
    )
    return {
        **said,
        "time": rfc3339(point.time),
        "guest_commands": [
            {name: getattr(command, name) for name in _OF_COMMAND} for command in point.guest_commands
        ],
        "notes": list(point.notes),
        "disks": disks,
        "locked_until": moment(point.locked_until),
        "copied_from": _origin(point),
        "keep": held,
        "proof": verdicts.brief(proof),
    }


def _origin(point: Point) -> dict[str, str] | None:
    found = point.copied_from
    return None if found is None else {"repository": found.repository, "point": found.point}


def full_record(point: Point, keep: Keep | None = None, proof: Proof | None = None) -> dict[str, Any]:
    """Return all members of one point except the addresses of its data."""
    attachments = [
        {"name": item.name, "size": item.size, "time": moment(item.time)} for item in point.attachments
    ]
    return {
        **record(point, keep),
        "attachments": attachments,
        "checkpoint_xml": point.checkpoint_xml,
        "proof": verdicts.full(proof),
    }


def listing(
    points: Sequence[Point],
    now: datetime,
    keeps: Mapping[tuple[str, str], Keep] = _NO_KEEPS,
    proofs: Mapping[tuple[str, str], Proof] = _NO_PROOFS,
) -> str:
    """Return a table with a line for each point, and columns KEPT and DRILL if there is any."""
    if not points:
        return "no restore points"
    heads: tuple[str, ...] = (
        "POINT",
        "DOMAIN",
        "HOST",
        "TIME",
        ">AGE",
        "KIND",
        "DISKS",
        ">SIZE",
        ">READ",
        ">STORED",
    )
    rows = [_row(point, now) for point in points]
    names = [(point.uuid, point.point) for point in points]
    more = {
        "KEPT": [_kept(keeps.get(name)) for name in names],
        "DRILL": [verdicts.cell(proofs.get(name)) for name in names],
    }
    for head, cells in more.items():
        if any(cells):
            heads, rows = (*heads, head), [(*row, cell) for row, cell in zip(rows, cells, strict=True)]
    return table(heads, rows)


def _kept(keep: Keep | None) -> str:
    if keep is None:
        return ""
    if keep.damage is not None:
        return "cannot be read"
    end = "without end" if keep.until is None else f"until {utc(keep.until)}"
    return f"{end}: {keep.note}" if keep.note else end


def _row(point: Point, now: datetime) -> tuple[str, ...]:
    return (
        point.point,
        point.domain,
        point.host,
        local(point.time),
        age(point.time, now),
        point.kind,
        ",".join(disk.disk for disk in point.disks) or "none",
        *(_sum(point, name) for name in ("size", "read_bytes", "stored_bytes")),
    )


def _sum(point: Point, name: str) -> str:
    return format_bytes(sum(getattr(disk, name) for disk in point.disks))


def summary(point: Point) -> str:
    """Return one line about a point that was just taken."""
    read, stored = _sum(point, "read_bytes"), _sum(point, "stored_bytes")
    disks = ",".join(disk.disk for disk in point.disks) or "no disks"
    took = duration(point.seconds)
    about = f"{printable(point.domain)}: {point.point} ({point.kind}, {disks})"
    text = f"{about}: read {read}, stored {stored} in {took}"
    frozen = point.freeze_seconds
    if point.scratch_peak:
        text += f", scratch {format_bytes(point.scratch_peak)}"
    return text if frozen is None else f"{text}, guest frozen for {frozen:.3f} s"


def description(point: Point, now: datetime, keep: Keep | None = None, proof: Proof | None = None) -> str:
    """Return all details of one point, for a person."""
    kept = [] if keep is None else [("kept", _kept(keep))]
    parts = [facts(_facts(point, now) + kept + verdicts.facts_of(proof))]
    if point.disks:
        parts.append(_disks(point.disks))
    parts += [f"{disk.disk} ({disk.kind}): {printable(disk.reason)}" for disk in point.disks if disk.reason]
    if point.attachments:
        rows = [(item.name, format_bytes(item.size)) for item in point.attachments]
        parts.append(table(("ATTACHMENT", ">SIZE"), rows))
    parts += verdicts.log_of(proof)
    return "\n\n".join(parts)


def _facts(point: Point, now: datetime) -> list[tuple[str, str]]:
    found = [
        ("point", point.point),
        ("domain", f"{point.domain} ({point.uuid})"),
        ("time", f"{rfc3339(point.time)} ({age(point.time, now)} ago)"),
        ("kind", f"{point.kind}, {point.mode}"),
        ("consistency", _consistency(point)),
        ("parent", point.parent or "none"),
        ("checkpoint", point.checkpoint or "none"),
        ("host", point.host),
        ("took", duration(point.seconds)),
    ]
    if point.copied_from is not None:
        found.append(("copied from", f"repository {point.copied_from.repository}"))
    if point.locked_until is not None:
        found.append(("locked", f"until {utc(point.locked_until)}"))
    if point.scratch_peak is not None:
        found.append(("scratch", format_bytes(point.scratch_peak)))
    found += [("tag", f"{name}={value}") for name, value in sorted(point.tags.items())]
    return found + [("note", printable(note)) for note in point.notes]


def _consistency(point: Point) -> str:
    frozen = "" if point.freeze_seconds is None else f", guest frozen for {point.freeze_seconds:.3f} s"
    return point.consistency + frozen


def _format(disk: DiskRecord) -> str:
    """Return the format of the image, and its encryption on its host."""
    return f"{disk.format}, {disk.encryption}" if disk.encryption else disk.format


def _disks(disks: Sequence[DiskRecord]) -> str:
    heads = ("DISK", "KIND", "FORMAT", ">SIZE", ">DIRTY", ">READ", ">ZERO", ">NEW", ">STORED")
    rows = []
    for disk in disks:
        sizes = [format_bytes(getattr(disk, name)) for name in ("size", *_SIZES)]
        rows.append((disk.disk, disk.kind, _format(disk), *sizes))
    return table(heads, rows)
