"""Parts of a domain that its point does not hold, for the notes of the point. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from puller.backups.machines.machine import Machine
from puller.hypervisor.domain.disks.disk import Disk


def unreached(domain: Machine) -> Iterator[str]:
    """Note what a backup cannot do without a way to the files of the domain's host."""
    if not domain.host.has_files:
        yield (
            f"the space for the scratch on host {domain.host.name} was not checked: "
            "puller has no way to the files of that host"
        )


def omissions(
    named_files: Iterable[str], disks: Sequence[Disk], wanted: Collection[str], excluded: Collection[str]
) -> Iterator[str]:
    """Return one note for each disk that changes and is omitted, and one for everything that does not change.

    A disk that the user omits needs no note: one of ``excluded``, or any if the others were ``wanted`` by
    name. A shareable disk that is taken gets one.
    """
    for disk in disks:
        if disk.shareable and disk.target in wanted and disk.target not in excluded:
            yield f"disk {disk.target} is shareable: writes by other hosts are not frozen"
    left = [] if wanted else [disk for disk in disks if disk.omission and disk.target not in excluded]
    for disk in left:
        if disk.holds_changes:
            yield f"the point does not hold disk {disk.target}: it is {disk.omission}"
    still = [
        f"disk {disk.target} ({disk.omission}, {disk.source})"
        for disk in left
        if disk.source and not disk.holds_changes
    ]
    if outside := [*named_files, *still]:
        yield f"the point does not hold {', '.join(outside)}"
