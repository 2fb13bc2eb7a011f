"""The attachments of a point, such as ``domain.xml``: read, and written beside restored disks."""

from __future__ import annotations

from pathlib import Path

from puller.errors import DamagedData
from puller.recovery.targets import outputs
from puller.repository.points import Attachment
from puller.repository.reading.damage import Damage
from puller.repository.reading.image import DiskImage
from puller.repository.repository import Repository


def write_file(path: Path, content: bytes, force: bool) -> None:
    """Write a file beside the disks, durably; with ``force`` in the place of one that exists.

    Raises OutputRefused, OutputFailed.
    """
    publish = outputs.replace if force else outputs.add
    with outputs.translated(str(path)):
        outputs.make_folder(path.parent)
        with outputs.raw(path, len(content), publish) as output:
            output.write(0, content)


def read_attachment(repository: Repository, item: Attachment) -> bytes:
    """The bytes of an attachment. Raises DamagedData."""
    image = DiskImage(repository.maps, repository.packs, item.root.address)
    if image.size != item.size:
        raise DamagedData(f"attachment {item.name}: its map describes {image.size} bytes, not {item.size}")
    content = bytearray(image.size)
    for window in image.windows():
        if window.damage:
            raise DamagedData(f"attachment {item.name} is damaged: {window.damage[0].reason}")
        for job in window.jobs:
            for piece in image.read(job):
                if isinstance(piece, Damage):
                    raise DamagedData(f"attachment {item.name} is damaged: {piece.reason}")
                content[piece[0] : piece[0] + len(piece[1])] = piece[1]
    return bytes(content)
