"""A disk: whether it can be backed up, and whether its next point will be incremental."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from puller.backups.bases.bases import Base, LiveBitmaps, choose
from puller.backups.bases.history import History
from puller.backups.sources.offline import StoredBitmaps
from puller.backups.sources.unlock import encryption_of, keys_of, require_keys
from puller.diagnosis import conversion
from puller.diagnosis.domain import ExaminedDomain
from puller.diagnosis.finding import Answer, Finding, ask, fail, ok, warn
from puller.errors import HypervisorError, UnsupportedDisk
from puller.host.access import LOCAL
from puller.hypervisor.domain import checkpoint as checkpoints
from puller.hypervisor.domain.disks.disk import Disk
from puller.hypervisor.domain.disks.image import (
    image_facts,
    layout,
    stored_bitmaps,
    untracked,
    with_layout,
    with_stored_chain,
)
from puller.hypervisor.job import openjob
from puller.hypervisor.shared import writers

ImageInfo = dict[str, Any] | HypervisorError | None
"""Facts of a qcow2 image, or the reason why it cannot be read; None if it is not on this host."""


def examine(examined: ExaminedDomain) -> Iterator[Finding]:
    """Check each disk that a backup takes. Each image is read once, because its storage may hang."""
    taken = examined.taken()
    infos = {disk.target: _read_info(examined, disk) for disk in taken}
    taken = [
        with_layout(disk, info) if isinstance(info := infos[disk.target], dict) else disk for disk in taken
    ]
    if examined.disks or examined.left_out or not taken:
        yield ask("disks", examined.domain.name, partial(_named, examined))
    for disk in examined.omitted():
        yield ask("disk-left-out", f"{examined.domain.name}/{disk.target}", partial(_left_out, disk))
    if taken:
        yield ask("other-writers", examined.domain.name, partial(_writers, examined, taken))
    bases = _bases(examined, [disk for disk in taken if disk.hindrance is None], infos)
    for disk in taken:
        subject = f"{examined.domain.name}/{disk.target}"
        yield ask("disk-format", subject, partial(_format, examined, disk))
        if disk.hindrance is not None:
            continue
        if disk.lock is not None:
            yield ask("disk-encryption", subject, partial(_encryption, examined, disk))
        if examined.domain.is_active():
            yield ask("disk-job", subject, partial(_job, examined, disk))
        if untracked(disk) is not None:
            continue
        yield ask("disk-image", subject, partial(_image, disk, infos[disk.target]))
        yield ask("disk-bitmaps", subject, partial(_bitmaps, examined, disk, infos[disk.target]))
        if disk.target in bases:
            yield ask("disk-base", subject, partial(_base, bases[disk.target]))


def _read_info(examined: ExaminedDomain, disk: Disk) -> ImageInfo:
    host = examined.domain.host
    if disk.path is None or disk.format != "qcow2" or not host.has_files:
        return None
    try:
        return image_facts(disk.path, disk.format, host=host)
    except HypervisorError as error:
        return error


def _named(examined: ExaminedDomain) -> Answer:
    known = {disk.target for disk in examined.domain.disks()}
    unknown = [target for target in examined.disks if target not in known]
    if unknown:
        text = f"the domain has no disk {unknown[0]}; its disks: {', '.join(sorted(known)) or 'none'}"
        return fail(text, "Correct the job's 'disks'.")
    if not examined.taken() and examined.disks:
        return fail("no disk is left to back up", "Correct the job's 'disks' and 'exclude-disks'.")
    if not examined.taken():
        return ok("no disk to back up: a point holds only the configuration")
    return ok(f"taken: {', '.join(disk.target for disk in examined.taken())}")


def _left_out(disk: Disk) -> Answer:
    text = f"the disk is {disk.omission}: backups leave it out"
    if disk.hindrance is None:
        advice = (
            f"Name it with --disk {disk.target}, besides the other disks, if no other machine writes to it "
            "during a backup."
        )
    else:
        advice = (
            f"Back it up with other tools; add --exclude-disk {disk.target} to leave it out without a notice."
        )
    return warn(text, advice)


def _writers(examined: ExaminedDomain, disks: Sequence[Disk]) -> Answer:
    for target, other in writers(examined.host, examined.domain, disks).items():
        return fail(
            f"the running domain {other} uses disk {target} too, and could write to it during a backup",
            f"Leave it out with --exclude-disk {target}, or back it up while {other} is shut off.",
        )
    return ok("no other running domain of this host can write to the disks")


def _bases(
    examined: ExaminedDomain, disks: Sequence[Disk], infos: Mapping[str, ImageInfo]
) -> Mapping[str, Base]:
    """Return the base of each disk in the next point; empty if it cannot be determined."""
    repository, domain = examined.repository, examined.domain
    unread = any(isinstance(infos[disk.target], HypervisorError) for disk in disks)
    if repository is None or (unread and not domain.is_active()):
        return {}
    history = History(repository, domain.uuid)
    try:
        if domain.is_active():
            return choose(history, disks, LiveBitmaps(domain, repository.id))
        stored = [with_stored_chain(disk, domain.scope, domain.host) for disk in disks]
        return choose(history, stored, StoredBitmaps.of(domain, stored, repository.id))
    except HypervisorError:
        return {}  # an image that cannot be read, which other checks report


def _format(examined: ExaminedDomain, disk: Disk) -> Answer:
    leave_out = f"leave the disk out with --exclude-disk {disk.target}"
    if disk.hindrance is not None:
        return fail(f"cannot back up the disk: it is {disk.hindrance}", leave_out.capitalize() + ".")
    if disk.path is None and disk.node is None and not examined.domain.is_active():
        return fail(
            f"cannot read the disk while the domain is shut off: it is {disk.type}",
            f"Start the domain, or {leave_out}.",
        )
    why = untracked(disk)
    if why is not None:
        return warn(
            f"each backup reads all of the disk and stores the changes: {why}",
            _way_to_bitmaps(examined, disk),
        )
    return ok(f"{disk.format} on {disk.type}")


def _way_to_bitmaps(examined: ExaminedDomain, disk: Disk) -> str:
    """How the disk gets dirty bitmaps. A raw one needs no copy: a qcow2 image can keep its data there."""
    plain = "Convert it to qcow2 of version 3 (compat 1.1) if that takes too long."
    if disk.format != "raw" or disk.path is None or disk.lock is not None:
        return plain
    try:
        size = examined.domain.disk_size(disk.target)
    except HypervisorError:
        return plain
    image = conversion.image_for(examined.domain.name, disk.target, disk.path)
    host = examined.domain.host
    where = "" if host is LOCAL else f"on host {host.name} "
    commands = conversion.commands(disk.path, image, size)
    return (
        f"If that takes too long: shut the domain off, {where}run '{commands}', "
        f"and make {image} the disk's source, with type qcow2 (docs/hosts.md, 'Block storage with true "
        "incrementals')."
    )


def _encryption(examined: ExaminedDomain, disk: Disk) -> Answer:
    """Check the passphrase. A backup of a shut-off domain needs it; others can do without."""
    try:
        require_keys(examined.domain, disk, keys_of(examined.domain, disk))
    except UnsupportedDisk as error:
        if not examined.domain.is_active():
            raise
        return warn(
            f"a push reads all of the disk, and a backup while shut off fails: {error.message}", error.advice
        )
    return ok(f"{encryption_of(disk)}: points hold its decrypted content, and temporary files are encrypted")


def _image(disk: Disk, info: ImageInfo) -> Answer:
    if info is None:
        return ok("not checked: it is not a file of this host")
    if isinstance(info, HypervisorError):
        advice = "Run doctor as root, and compare the domain's XML with 'qemu-img info' of the image."
        return fail(info.message, advice)
    facts = layout(info)
    if facts.get("corrupt"):
        return fail(
            f"QEMU has marked {disk.path} as corrupt",
            f"Stop the domain and run 'qemu-img check -r all {disk.path}'.",
        )
    return ok(f"qcow2, compat {facts['compat']}")


def _bitmaps(examined: ExaminedDomain, disk: Disk, info: ImageInfo) -> Answer:
    known = checkpoints.list_checkpoints(examined.domain)
    if not isinstance(info, dict):
        return ok(f"checkpoints: {len(known)}")
    stored = stored_bitmaps(info)
    names = {item.name for item in known}
    stranded = [name for name in stored if name not in names]
    if stranded:
        return warn(
            f"{disk.path} has {len(stranded)} dirty bitmaps without a checkpoint, such as {stranded[0]}",
            _remedy(disk, stranded[0]),
        )
    tracking = [item.name for item in known if disk.target in item.disks]
    lost = [] if examined.domain.is_active() else _lost(tracking, stored)
    if lost:
        return warn(
            f"dirty bitmap {lost[0]} is missing or inconsistent in {disk.path}, because QEMU was killed",
            "Expect one longer backup: it reads all of the disk.",
        )
    return ok(f"stored bitmaps: {len(stored)}")


def _remedy(disk: Disk, bitmap: str) -> str:
    if bitmap.startswith(checkpoints.OWN):
        return "Run a backup of the domain while it runs: it uses the bitmap again or removes it."
    return (
        f"Stop the domain and run 'qemu-img bitmap --remove {disk.path} {bitmap}' if nobody needs it: "
        "it slows the guest's writes."
    )


def _lost(tracking: Sequence[str], stored: Mapping[str, frozenset[str]]) -> list[str]:
    """Return bitmaps that are missing or inconsistent in the image of a shut-off domain."""
    return [name for name in tracking if "in-use" in stored.get(name, {"in-use"})]


def _job(examined: ExaminedDomain, disk: Disk) -> Answer:
    if openjob.open_job(examined.domain) is not None or not examined.domain.has_block_job(disk.target):
        return ok("no copy, commit or pull job is running")
    return fail(
        "a block job (copy, commit or pull) is running, which prevents a backup",
        f"Wait until it ends, or end it with 'virsh blockjob {examined.domain.name} {disk.target} --abort'.",
    )


def _base(base: Base) -> Answer:
    if base.kind == "incremental":
        return ok("the next point is incremental")
    text = f"the next backup may have to read all of the disk: {base.reason}"
    if base.parent is None or base.parent.point.checkpoint is None:
        return ok(text)  # no bitmap existed that could have been lost
    return warn(
        text,
        "Expect one longer backup. If this happens again, find out what removes checkpoints, "
        "kills QEMU or changes the image.",
    )
