"""``restored.xml``: the domain of a point on the disks that were restored, ready for ``virsh define``.

``domain.xml`` names the disks of the original. Where these are still there, a copy that is defined by it
would start on them.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from puller.cancelling import CancelScope
from puller.errors import HypervisorError
from puller.events import Notice, Observer
from puller.hypervisor.domain.definition.restoredxml import Copy, DiskSource, RestoredDomain, adapt, free_name
from puller.recovery.attachments import write_file
from puller.recovery.targets.asking import ask_manager
from puller.repository.points import Point

NAME = "restored.xml"

SOURCE = "domain.xml"
"""The attachment that it is made of."""

_ENTERED_BY_ALL = 0o001


def write_definition(  # noqa: PLR0913 - what a definition is made of
    point: Point,
    xml: bytes,
    sources: Mapping[str, DiskSource],
    *,
    folder: Path,
    force: bool,
    libvirts: Sequence[str],
    scope: CancelScope,
    observer: Observer,
) -> None:
    """Write it into ``folder`` for the disks in ``sources``, by target, and tell how it is used.

    ``xml`` is the point's ``domain.xml``. ``libvirts`` are asked whether the original is there; where none
    answers it is taken to be lost. Raises OutputRefused, OutputFailed.
    """
    held = {item.name: folder / item.name for item in point.attachments}
    nvram, varstore = held.get("nvram.fd"), held.get("varstore.json")
    taken = _names_beside(point, libvirts, scope)
    try:
        copy = None if taken is None else Copy(free_name(point.domain, taken))
        domain = adapt(xml.decode(), sources, nvram, copy, varstore=varstore)
    except (ET.ParseError, UnicodeDecodeError) as error:
        observer(Notice(point.point, f"there is no {NAME}: domain.xml cannot be read: {error}"))
        return
    path = folder / NAME
    write_file(path, f"{_comment(point, path)}\n{domain.xml}".encode(), force)
    observer(Notice(point.point, _advice(point, domain, path, disks=bool(sources), apart=taken is not None)))


def _names_beside(point: Point, libvirts: Sequence[str], scope: CancelScope) -> list[str] | None:
    """The names of the domains of the libvirt that knows the original, by name or UUID; None if none does."""
    for uri in dict.fromkeys(libvirts):
        try:
            known = ask_manager(uri, scope, lambda host: host.uuids())
        except HypervisorError:
            continue
        if point.domain in known or point.uuid in known.values():
            return list(known)
    return None


def _comment(point: Point, path: Path) -> str:
    text = f"Domain {point.domain} on the disks of restore point {point.point}: virsh define {path}"
    access = f"QEMU's user must be able to enter {path.parent}: chmod a+x {path.parent}"
    return (
        f"<!-- {text}\n     {access} -->".replace("--", "- -").replace("<!- -", "<!--").replace("- ->", "-->")
    )


def _advice(point: Point, domain: RestoredDomain, path: Path, *, disks: bool, apart: bool) -> str:
    entry = "" if path.parent.stat().st_mode & _ENTERED_BY_ALL else f"chmod a+x {path.parent} && "
    parts = ["domain.xml starts the original's disks"] if disks else []
    purpose = "start the restored ones" if disks else "define the domain"
    parts.append(f"to {purpose}, run '{entry}virsh define {path}'")
    if apart:
        parts.append(f"it defines {domain.name}, as {point.domain} exists here")
    parts += differences(domain)
    return "; ".join(parts)


def differences(domain: RestoredDomain) -> Iterator[str]:
    """What the definition lacks, as clauses."""
    if domain.left_out:
        yield f"without {', '.join(domain.left_out)}, not restored or not to be shared with the original"
    if domain.added:
        yield f"without {', '.join(domain.added)}, which the definition did not have: add it by hand"
