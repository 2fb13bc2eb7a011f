"""The search for what a disk differs in from a point: by its dirty bitmap and two maps, or by reading it.

::

    base point ── dirty bitmap ──► the disk now        what the bitmap names may differ from the base
    base point ──── two maps ────► the wanted point    so may what the maps name
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from puller.backups.bases.bases import Base
from puller.backups.bases.probe import find_mismatch
from puller.errors import DamagedData
from puller.hypervisor.storage.rollback_mark import RollbackMark
from puller.nbd.export import Export
from puller.recovery.comparison import compare_contents
from puller.recovery.diskcopy import open_image
from puller.repository.points import DiskRecord, Point
from puller.repository.reading.difference import Changes, compare_maps
from puller.repository.reading.image import DiskImage
from puller.repository.repository import Repository
from puller.units import CHUNK


class ChangeSearch:
    """The search on one disk of ``size`` bytes.

    ``mark`` is that of a rollback that was not completed, if there was one; ``compare`` asks to read the disk
    instead of trusting its bitmap; ``tell`` is told why it is read otherwise. ``doubt`` is the reason not to
    believe the bitmap, if there is one.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - what is compared with what
        self,
        repository: Repository,
        point: Point,
        image: DiskImage,
        base: Base,
        size: int,
        mark: RollbackMark | None,
        tell: Callable[[str], None],
        *,
        compare: bool,
    ) -> None:
        self._repository = repository
        self._point = point
        self._image = image
        self._base = base
        self._size = size
        self._mark = mark
        self._tell = tell
        self._compare = compare
        self._is_distrusted = False
        self._is_probed = False
        self.doubt: str | None = None

    def trusted(self) -> int:
        """Where the bitmap has seen every change: up to the least size of the disk since its base."""
        if self._is_distrusted:
            return 0
        base = 0 if self._base.parent is None else self._base.parent.record.size
        earlier = base if self._mark is None else self._mark.trusted
        return min(base, self._size, earlier)

    def probe(self, uri: str) -> None:
        """Find out whether the bitmap can belong to the disk at ``uri``; once, before that is resized."""
        if self._is_probed or self._compare or not self._has_bitmap() or self._base.parent is None:
            return
        self._is_probed = True
        with self._with_bitmap(uri) as export:
            self.doubt = find_mismatch(
                self._repository, export, self._base.parent.record, image_changed=self._base.image_changed
            )

    def run(self, uri: str) -> tuple[Changes, int]:
        """Where the disk at ``uri`` may differ from the point, and the bytes that were read to know it."""
        if self._compare:
            return self._by_contents(uri)
        if not self._has_bitmap() or self._base.parent is None:
            self._tell(self._base.reason or "an earlier rollback was not completed")
        elif self.doubt is not None:
            self._tell(self.doubt)
        else:
            try:
                return self._by_bitmap(uri, self._base.parent.record), 0
            except DamagedData as error:
                self._tell(f"the map of point {self._base.parent.point.point} is damaged: {error.message}")
        return self._by_contents(uri)

    def _has_bitmap(self) -> bool:
        """Whether a bitmap tells what the disk has changed since its base, if it belongs to the disk."""
        return self._base.checkpoint is not None and self.trusted() > 0

    def _with_bitmap(self, uri: str) -> Export:
        return Export(uri, f"qemu:dirty-bitmap:{self._base.checkpoint}", self._repository.scope)

    def _by_contents(self, uri: str) -> tuple[Changes, int]:
        """What the disk itself shows, and what the maps name besides.

        The next backup may use the bitmap, which may not know everywhere that the disk differs from its base.
        So the chunks in which base and point differ are written, even where the disk has them already.
        """
        self._is_distrusted = True
        with Export(uri, scope=self._repository.scope) as export:
            changes, compared = compare_contents(export, self._image, self._repository.keys.id_key)
        if self._base.checkpoint is not None and self._base.parent is not None:
            with suppress(DamagedData):  # no backup builds upon it then
                old = open_image(self._repository, self._point, self._base.parent.record)
                changes.add_all(compare_maps(self._repository.maps, old.root, self._image.root))
        return changes, compared

    def _by_bitmap(self, uri: str, base: DiskRecord) -> Changes:
        """What the bitmap and the maps name."""
        old = open_image(self._repository, self._point, base)
        changes = compare_maps(self._repository.maps, old.root, self._image.root)
        with self._with_bitmap(uri) as export:
            for extent in export.dirty():
                changes.add_chunks(extent.offset // CHUNK, -(-extent.end // CHUNK))
        self._add_untrusted(changes)
        return changes

    def _add_untrusted(self, changes: Changes) -> None:
        trusted = min(self.trusted(), self._image.size)
        whole = self.trusted() == self._image.size == self._size
        if not whole:
            changes.add_chunks(trusted // CHUNK, -(-self._image.size // CHUNK))
