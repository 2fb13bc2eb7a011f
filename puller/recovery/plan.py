"""Where each disk of a restore goes: decided, and refused if need be, before anything is touched."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from puller.errors import NoSuchDisk, OutputRefused, UsageError
from puller.recovery import definition
from puller.recovery.targets import outputs
from puller.repository.points import DiskRecord, Point

_SUFFIXES = {".raw": "raw", ".img": "raw", ".qcow2": "qcow2"}
"""What a file's name says of its format."""


@dataclass(frozen=True, slots=True)
class Placement:
    """``record`` is written to ``name``: a file of ``format``, a block device, or an NBD URI."""

    record: DiskRecord
    name: str
    format: str

    @property
    def target(self) -> str:
        """The disk's target."""
        return self.record.disk

    @property
    def is_file(self) -> bool:
        """Whether it is a file, made anew."""
        return not (outputs.is_uri(self.name) or outputs.is_device(Path(self.name)))


@dataclass(frozen=True, slots=True)
class Plan:
    """The disks, and in ``directory``, if there is one, the attachments and the definition as ``files``."""

    disks: tuple[Placement, ...]
    directory: Path | None
    files: tuple[Path, ...]

    @property
    def has_definition(self) -> bool:
        """Whether ``restored.xml`` is among the files."""
        return any(path.name == definition.NAME for path in self.files)


def make_plan(  # noqa: PLR0913 - what a user decides
    point: Point,
    *,
    output: str | None,
    disks: tuple[str, ...],
    places: Mapping[str, str],
    image_format: str | None,
    force: bool,
    made: frozenset[str] = frozenset(),
) -> Plan:
    """Pair each disk with its output.

    ``output`` is a directory, or with one disk the disk itself; ``places`` says by target where a disk goes
    instead. Without ``output`` only the disks in ``places`` are written. What exists needs ``force``, except
    in ``made``. Raises NoSuchDisk, OutputRefused, UsageError.
    """
    if image_format not in {None, *outputs.FORMATS}:
        raise UsageError(
            f"invalid format '{image_format}'", advice=f"Use one of: {', '.join(outputs.FORMATS)}."
        )
    for name in (*places.values(), *([output] if output is not None else [])):
        _refuse_unknown(name)
    chosen = _choose(point, (*disks, *places), everything=output is not None and not disks)
    single = output is not None and not places and _is_single(output, disks)
    if single and output is not None:
        _require_one(point, chosen, output)
        places = {chosen[0].disk: output}
    directory = None if single or output is None else Path(output)
    placed = tuple(_placed(record, places, directory, image_format) for record in chosen)
    files = () if directory is None else tuple(_files(point, directory))
    _refuse_same(placed, files)
    for name in (*(disk.name for disk in placed), *map(str, files)):
        with outputs.translated(name):
            _refuse(name, force or name in made)
    return Plan(placed, directory, files)


def _choose(point: Point, wanted: tuple[str, ...], *, everything: bool) -> list[DiskRecord]:
    for target in wanted:
        if point.disk(target) is None:
            held = ", ".join(disk.disk for disk in point.disks) or "none"
            raise NoSuchDisk(f"restore point {point.point} has no disk {target}; it has {held}")
    return [record for record in point.disks if everything or record.disk in wanted]


def _is_single(output: str, disks: tuple[str, ...]) -> bool:
    """Whether the output is the disk itself rather than a directory to put disks into."""
    path = Path(output)
    if outputs.is_uri(output) or outputs.is_device(path):
        return True
    return len(disks) == 1 and not path.is_dir() and not output.endswith("/")


def _require_one(point: Point, chosen: list[DiskRecord], output: str) -> None:
    if not chosen:
        raise UsageError(
            f"{output} can take one disk, and point {point.point} has none",
            advice="Give a directory: the point holds the domain's configuration.",
        )
    if len(chosen) != 1:
        raise UsageError(
            f"{output} can take one disk, the point has {len(chosen)}",
            advice="Choose one with --disk, or give a directory.",
        )


def _placed(
    record: DiskRecord, places: Mapping[str, str], directory: Path | None, image_format: str | None
) -> Placement:
    original = record.format if record.format in outputs.FORMATS else "raw"
    name = places.get(record.disk)
    if name is None:
        chosen = image_format or original
        return Placement(record, str((directory or Path()) / f"{record.disk}.{chosen}"), chosen)
    if outputs.is_uri(name) or outputs.is_device(Path(name)):
        return Placement(record, name, "raw")
    return Placement(record, name, image_format or _SUFFIXES.get(Path(name).suffix, original))


def _files(point: Point, directory: Path) -> Iterator[Path]:
    """Where ``domain.xml`` and the like go: beside disks in a directory."""
    names = [item.name for item in point.attachments]
    yield from (directory / name for name in names)
    if definition.SOURCE in names:
        yield directory / definition.NAME


def _refuse_unknown(name: str) -> None:
    if "://" in name and not outputs.is_uri(name):
        raise UsageError(
            f"cannot restore to {name}: unknown kind of URI",
            advice="Give a directory, a file, a block device, or an nbd:// or nbd+unix:// URI.",
        )
    outputs.refuse_impossible(name)


def _refuse_same(placed: tuple[Placement, ...], files: tuple[Path, ...]) -> None:
    seen = {os.path.realpath(path): path.name for path in files}
    for disk in placed:
        place = disk.name if outputs.is_uri(disk.name) else os.path.realpath(disk.name)
        if place in seen:
            raise UsageError(
                f"{seen[place]} and disk {disk.target} have the same output {disk.name}",
                advice="Give each disk a place of its own.",
            )
        seen[place] = f"disk {disk.target}"


def _refuse(name: str, force: bool) -> None:
    path = Path(name)
    if outputs.is_uri(name):
        return
    if outputs.is_device(path):
        if not force:
            raise OutputRefused(
                f"{path} is a block device", advice="Pass --force to overwrite what is on it."
            )
        return
    if path.is_dir() or (path.exists() and not path.is_file()):
        raise OutputRefused(f"{path} exists and is not a regular file")
    if os.path.lexists(path) and not force:
        raise OutputRefused(f"{path} exists")
    parent = next(parent for parent in path.absolute().parents if parent.exists())
    if not (parent.is_dir() and os.access(parent, os.W_OK)):
        raise OutputRefused(f"cannot write to directory {parent}")
