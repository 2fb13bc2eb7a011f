"""A backup of a simulated guest: its disk is bytes in memory; the run, the point and its commit are real."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from puller.backups import clock as clocks
from puller.backups.bases.history import History
from puller.errors import PullerError
from puller.events import Committed, Observer
from puller.repository.format.address import Address
from puller.repository.points import Attachment, DiskRecord, Point, Ref, new_id
from puller.repository.repository import Repository
from puller.units import CHUNK, Extent, Kind
from tests.fleet.guests import Guest
from tests.lab.feed import feed, whole
from tests.lab.history import TUNING, Disk, attached, content

Known = Mapping[str, Disk]
"""What each point holds."""


def back_up(
    repository: Repository,
    guest: Guest,
    known: Known,
    tags: Mapping[str, str],
    observer: Observer,
    announce: Callable[[Point, Disk], None],
) -> Point:
    """Take a point of ``guest``, as incremental as its checkpoints allow.

    ``announce`` is called with the point before it is committed: what becomes of the commit may stay unknown.
    """
    history = History(repository, guest.uuid)
    moment = clocks.next_moment(history, guest.domain, observer)
    base = next((point for point in history if point.point in guest.checkpoints), None)
    other = None if base is not None else next(iter(history), None)
    disk, data = list(guest.disk), content(guest.disk)
    changed = None if base is None else _changes(known[base.point], disk)
    point_id = new_id(moment)
    with repository.run(TUNING) as run:
        for one in (base, other):
            if one is not None:
                run.rely_on(one, one.disks[0].root.address)
        writer = run.disk(len(data), _root(base), _root(other))
        feed(run, writer, data, whole(data) if changed is None else changed)
        run.drain()
        root = Ref.to(writer.finish())
        xml = attached(guest.domain, "")
        attachment = Attachment("domain.xml", len(xml), Ref.to(run.attach(xml)))
        run.flush()
    parent = base or other
    kind = "incremental" if base else "rehash" if other else "full"
    record = DiskRecord(
        "vda",
        kind,
        len(data),
        root,
        parent=None if parent is None else parent.point,
        dirty_bytes=len(data) if changed is None else sum(extent.length for extent in changed),
        read_bytes=writer.done_bytes,
        new_bytes=writer.new_bytes,
        stored_bytes=writer.stored_bytes,
    )
    point = Point(
        point=point_id,
        domain=guest.domain,
        uuid=guest.uuid,
        time=moment,
        mode="pull",
        kind=kind,
        disks=(record,),
        parent=record.parent,
        previous=next((one.point for one in history), None),
        tags={"title": "", **tags},
        host=guest.host,
        attachments=(attachment,),
    )
    announce(point, disk)
    made = set() if guest.is_off else {point_id}
    guest.checkpoints |= made
    try:
        committed = run.commit(point)
    except PullerError:
        guest.checkpoints -= made
        raise
    guest.checkpoints = made or guest.checkpoints
    observer(Committed(guest.domain, committed))
    return committed


def _root(point: Point | None) -> Address | None:
    return None if point is None else point.disks[0].root.address


def _changes(before: Disk, disk: Disk) -> list[Extent]:
    return [
        Extent(place * CHUNK, CHUNK, Kind.DATA if seed else Kind.ZERO)
        for place, (old, seed) in enumerate(zip(before, disk, strict=True))
        if old != seed
    ]
