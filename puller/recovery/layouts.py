"""How the images of a point's disks were laid out on their host, for qcow2 files that are to be the same."""

from __future__ import annotations

import json
from collections.abc import Sequence

from puller.errors import DamagedData
from puller.recovery.attachments import read_attachment
from puller.recovery.plan import Placement
from puller.recovery.targets.qcow2_file import Layout
from puller.repository.points import Point
from puller.repository.repository import Repository

IMAGES = "images.json"


def layouts_of(repository: Repository, point: Point, disks: Sequence[Placement]) -> dict[str, Layout]:
    """By target, the layout of disks that were qcow2 and become qcow2 files.

    Read only if there are any; a point that does not tell, or whose record of it is damaged, has the default.
    """
    wanted = [disk.target for disk in disks if disk.format == disk.record.format == "qcow2"]
    item = next((item for item in point.attachments if item.name == IMAGES), None)
    if not wanted or item is None:
        return {}
    try:
        facts = json.loads(read_attachment(repository, item))
        return {target: Layout.of(facts[target][0]) for target in wanted if facts.get(target)}
    except (DamagedData, ValueError, KeyError, TypeError, AttributeError):
        return {}
