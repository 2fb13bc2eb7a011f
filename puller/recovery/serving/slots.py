"""Fetched slots in a directory: what a server has read once, it need not fetch again, also after a restart.

They lie there as in the repository, so sealed if that is encrypted, and are verified in the same way.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from puller.errors import DamagedData, UsageError
from puller.host.privatefolder import make_private
from puller.repository.keys.keyring import KeyRing
from puller.repository.reading.packs import PackReader, Span, StoredPack
from puller.store.base import Store


class SlotFolder:
    """Files in ``folder``, up to ``capacity`` bytes; the oldest go first. Safe for many threads.

    Several servers may share it. A file that is gone, or that cannot be written, is not an error. Raises
    UsageError if the folder cannot be used or is another user's.
    """

    def __init__(self, folder: Path, capacity: int) -> None:
        self._folder = folder
        self._capacity = capacity
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self._held = 0
        self._lock = threading.Lock()
        try:
            make_private(folder)
            found = [(each.stat(), each.name) for each in os.scandir(folder) if each.is_file()]
        except OSError as error:
            text = f"cannot use {folder} for the cache: {error.strerror or error}"
            raise UsageError(text, advice="Choose a directory of this user's with --cache-dir.") from error
        for status, name in sorted(found, key=lambda item: item[0].st_mtime):
            self._add(name, status.st_size)

    def get(self, name: str) -> bytes | None:
        """Return the content of a file; None if it is not there."""
        if name not in self._sizes:
            return None
        with suppress(OSError):
            return (self._folder / name).read_bytes()
        return None

    def put(self, name: str, content: memoryview) -> None:
        """Write a file, and remove the oldest ones if there are too many bytes."""
        part = self._folder / f".{name}.{threading.get_ident()}"
        try:
            part.write_bytes(content)
            part.replace(self._folder / name)
        except OSError:  # the file system is full: what is fetched is served all the same
            part.unlink(missing_ok=True)
            return
        self._add(name, len(content))

    def drop(self, name: str) -> bool:
        """Remove a file; return whether it was there."""
        with self._lock:
            size = self._sizes.pop(name, None)
            self._held -= size or 0
        (self._folder / name).unlink(missing_ok=True)
        return size is not None

    def _add(self, name: str, size: int) -> None:
        with self._lock:
            self._held += size - self._sizes.pop(name, 0)
            self._sizes[name] = size
            gone = []
            while self._held > self._capacity:
                oldest, length = self._sizes.popitem(last=False)
                self._held -= length
                gone.append(oldest)
        for oldest in gone:
            (self._folder / oldest).unlink(missing_ok=True)


class CachedPackReader(PackReader):
    """A PackReader that looks into ``slots`` before it asks the store."""

    def __init__(self, store: Store, keys: KeyRing, slots: SlotFolder) -> None:
        super().__init__(store, keys)
        self._slots = slots

    def fetch(self, pack: StoredPack, spans: Sequence[Span]) -> Iterator[tuple[Span, memoryview]]:
        """See ``PackReader.fetch``. What is not in the folder is fetched, and keeps its place in the order.

        A reader that has to open the pack again goes on after as many slots as it has got.
        """
        held = [self._assembled(pack, span) for span in spans]
        fetched = super().fetch(
            pack, [span for span, whole in zip(spans, held, strict=True) if whole is None]
        )
        for span, whole in zip(spans, held, strict=True):
            if whole is None:
                _, stored = next(fetched)
                yield span, self._kept(pack, span, stored)
            else:
                yield span, whole

    def _kept(self, pack: StoredPack, span: Span, stored: memoryview) -> memoryview:
        """Put the slots that the folder lacks, and return the span with the others as they are there.

        What was verified once must not become unreadable because the store's copy is damaged by now.
        """
        whole = bytearray(stored)
        for slot, start, length in _parts(pack, span):
            held = self._held(pack, slot, length)
            if held is None:
                self._slots.put(_name(pack, slot), stored[start : start + length])
            else:
                whole[start : start + length] = held
        return memoryview(whole)

    def contents(
        self, pack: StoredPack, span: Span, stored: memoryview
    ) -> Iterator[tuple[int, bytes | DamagedData]]:
        """See ``PackReader.contents``. What is damaged in the folder is fetched from the store."""
        for slot, content in super().contents(pack, span, stored):
            if isinstance(content, DamagedData) and self._slots.drop(_name(pack, slot)):
                yield slot, self._fetched_again(pack, slot)
            else:
                yield slot, content

    def _fetched_again(self, pack: StoredPack, slot: int) -> bytes | DamagedData:
        start, stop = (int(pack.footer.offsets[at]) for at in (slot, slot + 1))
        ((span, stored),) = super().fetch(pack, [Span((slot,), start, stop - start)])
        ((_, content),) = super().contents(pack, span, stored)
        return content

    def _assembled(self, pack: StoredPack, span: Span) -> memoryview | None:
        """Return the span with those of its bytes that belong to its slots; None if one is missing."""
        whole = bytearray(span.length)
        for slot, start, length in _parts(pack, span):
            held = self._held(pack, slot, length)
            if held is None:
                return None
            whole[start : start + length] = held
        return memoryview(whole)

    def _held(self, pack: StoredPack, slot: int, length: int) -> bytes | None:
        content = self._slots.get(_name(pack, slot))
        return content if content is not None and len(content) == length else None


def _parts(pack: StoredPack, span: Span) -> Iterator[tuple[int, int, int]]:
    """Yield for each slot of ``span`` where its bytes are in the span, and how many."""
    for slot in span.slots:
        start, stop = int(pack.footer.offsets[slot]), int(pack.footer.offsets[slot + 1])
        yield slot, start - span.offset, stop - start


def _name(pack: StoredPack, slot: int) -> str:
    return f"{pack.pack_id.hex()}-{pack.generation}-{slot}"
