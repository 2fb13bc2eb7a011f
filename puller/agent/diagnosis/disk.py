"""A disk: whether it can have a checkpoint, and whether the next point of it will be incremental."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from puller.agent.bases import LiveBitmaps, choose
from puller.agent.diagnosis.domain import Patient
from puller.agent.diagnosis.finding import Answer, Check, ask, fail, ok, warn
from puller.agent.history import History
from puller.hypervisor import checkpoint as checkpoints
from puller.hypervisor import openjob
from puller.hypervisor.disk import Disk
from puller.hypervisor.qcow2 import Header, read_header
from puller.repository.points import Point


def examine(patient: Patient, last: Point | None) -> Iterator[Check]:
    """Ask about each disk that a backup takes; ``last`` is the domain's newest point."""
    bases = _incremental(patient)
    for disk in patient.domain.disks():
        if not disk.is_candidate:
            continue
        subject = f"{patient.domain.name}/{disk.target}"
        yield ask("disk-format", subject, partial(_format, disk))
        if disk.hindrance is not None:
            continue
        yield ask("disk-image", subject, partial(_image, disk))
        yield ask("disk-bitmaps", subject, partial(_bitmaps, patient, disk))
        if patient.domain.is_active():
            yield ask("disk-job", subject, partial(_job, patient, disk))
        if last is not None and last.disk(disk.target) is not None:
            yield ask("disk-base", subject, partial(_base, patient, disk, last, bases))


def _incremental(patient: Patient) -> frozenset[str] | None:
    """Targets of the disks that the next point can take incrementally; None where it cannot be told."""
    if patient.repository is None or not patient.domain.is_active():
        return None
    history = History(patient.repository, patient.domain.uuid)
    bitmaps = LiveBitmaps(patient.domain, patient.repository.id)
    bases = choose(history, patient.domain.disks(), bitmaps)
    return frozenset(target for target, base in bases.items() if base.checkpoint is not None)


def _format(disk: Disk) -> Answer:
    if disk.hindrance is None:
        return ok(f"{disk.format} on {disk.type}")
    return fail(
        f"the disk is {disk.hindrance} ({disk.type}), so it cannot have a checkpoint",
        f"Leave it out with --exclude-disk {disk.target}, or convert it to qcow2.",
    )


def _image(disk: Disk) -> Answer:
    if disk.path is None:
        return ok("not a file of this host: not looked into")
    header = read_header(disk.path)
    if header is None:
        return _unread(disk)
    if header.version == 2:
        return fail(
            f"{disk.path} is qcow2 version 2, which stores no dirty bitmap",
            f"Stop the domain and run 'qemu-img amend -o compat=1.1 {disk.path}'.",
        )
    if header.corrupt:
        return fail(
            f"QEMU has marked {disk.path} as corrupt",
            f"Stop the domain and run 'qemu-img check -r all {disk.path}'.",
        )
    return ok(f"qcow2 version {header.version}")


def _unread(disk: Disk) -> Answer:
    return fail(
        f"{disk.path} cannot be read from here, or is not qcow2",
        "Run doctor as root, and compare the domain's XML with 'qemu-img info' of the image.",
    )


def _bitmaps(patient: Patient, disk: Disk) -> Answer:
    header = None if disk.path is None else read_header(disk.path)
    known = checkpoints.list_checkpoints(patient.domain)
    if header is None:
        return ok(f"checkpoints: {len(known)}")
    names = {item.name for item in known}
    stranded = [bitmap.name for bitmap in header.bitmaps if bitmap.name not in names]
    if stranded:
        return warn(
            f"{disk.path} has {len(stranded)} dirty bitmaps without a checkpoint, such as {stranded[0]}",
            f"Stop the domain and run 'qemu-img bitmap --remove {disk.path} {stranded[0]}', "
            "if nobody needs it: it slows the guest's writes.",
        )
    tracking = [item.name for item in known if disk.target in item.disks]
    lost = [] if patient.domain.is_active() else _lost(tracking, header)
    if lost:
        return warn(
            f"dirty bitmap {lost[0]} is missing or inconsistent in {disk.path}, as QEMU died",
            "Nothing need be done: the next point reads the disk in full.",
        )
    return ok(f"stored bitmaps: {len(header.bitmaps)}")


def _lost(tracking: Sequence[str], header: Header) -> list[str]:
    """Bitmaps that should be in the image of a shut-off domain, and are not or were never written back."""
    whole = {bitmap.name for bitmap in header.bitmaps if not bitmap.in_use}
    return [name for name in tracking if name not in whole]


def _job(patient: Patient, disk: Disk) -> Answer:
    if openjob.open_job(patient.domain) is not None or not patient.domain.has_block_job(disk.target):
        return ok("no copy, commit or pull is going on")
    return fail(
        "a block job (copy, commit or pull) is going on, which excludes a backup",
        f"Wait for its end, or end it with 'virsh blockjob {patient.domain.name} {disk.target} --abort'.",
    )


def _base(patient: Patient, disk: Disk, last: Point, incremental: frozenset[str] | None) -> Answer:
    if incremental is None or disk.target in incremental:
        return ok(
            "the next point is incremental" if incremental is not None else "not told of a shut-off domain"
        )
    return warn(
        f"the next point reads the disk in full: {_reason(patient, disk, last)}",
        "Nothing need be done, but if this comes again look for what removes checkpoints, "
        "kills QEMU or changes the image.",
    )


def _reason(patient: Patient, disk: Disk, last: Point) -> str:
    known = {item.name: item for item in checkpoints.list_checkpoints(patient.domain)}
    name, record = last.checkpoint or "", last.disk(disk.target)
    if name not in known:
        return f"the checkpoint of point {last.point} is gone"
    if disk.target not in checkpoints.dirty_bytes(patient.domain, name):
        return f"the dirty bitmap of point {last.point} is missing or inconsistent"
    if record is not None and (record.source, record.format) != (disk.source, disk.format):
        return f"its image was {record.source} at point {last.point}"
    return f"point {last.point} cannot be its base"
