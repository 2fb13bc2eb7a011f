"""Verified packs as one check knows them: from all records, and from its own reads."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from math import inf

from puller.errors import StoreError
from puller.events import Notice, Observer
from puller.repository.records.verified import VerifiedPack, outlives
from puller.repository.repository import Repository


class Verification:
    """When packs were last verified, by pack id.

    ``generations`` are the stored ones, by pack: a reader takes any of them, so each of them counts.
    ``damaged`` says since when a pack is recorded as damaged. ``fresh`` are the packs that any check
    verified since this check began.
    """

    def __init__(
        self,
        repository: Repository,
        generations: Mapping[bytes, Collection[int]],
        damaged: Mapping[bytes, float],
        observer: Observer,
    ) -> None:
        self._records = repository.verified
        self._generations = generations
        self._damaged = damaged
        self._observer = observer
        self._seen: set[str] = set()
        self._refused = False
        self.times: dict[bytes, float] = {}
        self.fresh: set[bytes] = set()
        if self.refresh():
            self.refresh()  # what a prune put in place of records that were gone before they were read
        self.fresh.clear()

    def refresh(self) -> bool:
        """Read the records that have appeared since the last call; return whether there were some."""
        infos = [info for info in self._records.listed() if info.key not in self._seen]
        self._seen.update(info.key for info in infos)
        for record in self._records.read(infos):
            for pack in record.packs:
                if self._is_stored(pack):
                    self._note(pack, pack.time or 0.0)
        return bool(infos)

    def _note(self, pack: VerifiedPack, moment: float) -> None:
        # A new record may say what older ones have said: prune merges them.
        is_news = moment > self.times.get(pack.pack_id, -inf)
        if is_news and outlives(pack, self._damaged):
            self.times[pack.pack_id] = moment
            self.fresh.add(pack.pack_id)

    def add(self, packs: Sequence[VerifiedPack]) -> None:
        """Record packs that were just verified. A refusal is reported once, and the check continues."""
        moment = time.time()
        try:
            for info in self._records.put(packs):
                self._seen.add(info.key)
                moment = info.modified
        except StoreError as error:
            self._tell(error)
        for pack in packs:
            self.times[pack.pack_id] = moment
            self.fresh.add(pack.pack_id)

    def add_recorded(self, packs: Sequence[VerifiedPack], refusal: str | None) -> None:
        """Note packs that another process has just verified.

        The record says when, unless there is none, or prune has compacted the pack since the listing.
        """
        self.fresh.update(pack.pack_id for pack in packs)
        if refusal is not None:
            self._say(refusal)
        untold = (pack for pack in packs if refusal is not None or not self._is_stored(pack))
        self.times |= dict.fromkeys((pack.pack_id for pack in untold), time.time())

    def _is_stored(self, pack: VerifiedPack) -> bool:
        return pack.generation in self._generations.get(pack.pack_id, ())

    def withdraw(self, pack_id: bytes) -> None:
        """Forget the verification of a pack that turned out to be damaged."""
        self.times.pop(pack_id, None)

    def now(self) -> float:
        """Return the store's time; this host's if nothing may be put."""
        try:
            return self._records.now()
        except StoreError as error:
            self._tell(error)
            return time.time()

    def _tell(self, error: StoreError) -> None:
        self._say(error.message)

    def _say(self, refusal: str) -> None:
        if not self._refused:
            self._refused = True
            text = "cannot record the verified packs, so later checks read them again"
            self._observer(Notice("repository", f"{text}: {refusal}"))
