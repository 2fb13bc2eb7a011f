"""What a prune asks of the store: requests grow with points and packs, and no page is read twice.

    python benchmarks/prune.py                     # 200 points, then 1,000, of 100 domains
    python benchmarks/prune.py --points 5000       # another number in the second place

Each point is a run of its own over a disk of 1 GiB, in which it changes chunks on three pages: a data
pack, a map pack and an index object a point. The store is in memory; a listing counts as a request for
each 1,000 objects, and a deletion too, as with S3. Each repository is pruned three times: first, with
small index objects to merge; again, with nothing to do; and with half of the points to go, at once.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks.counting import CountingStore
from puller.pipeline.buffers import Batch, ReadSegment
from puller.repository import repository as repositories
from puller.repository.format.packname import PackKind
from puller.repository.keys.key_slots import KeyFile
from puller.repository.points import DiskRecord, Point, Ref, new_id
from puller.repository.reading.packs import PackReader
from puller.repository.repository import Repository
from puller.repository.writing.run import Tuning
from puller.store.base import ObjectInfo
from puller.units import CHUNK, GIB, MIB, PAGE_CHUNKS, Extent, Kind
from puller.upkeep.pruning.prune import GRACE, PruneReport, prune
from puller.upkeep.retention.policy import Policy
from tests.lab.memory import MemoryStore

SIZE = GIB
PAGES = 3
CHUNKS = 2
"""Changed on each of the pages,"""

PLACES = 4
"""out of so many at its beginning: later points write again what earlier ones wrote."""

LISTED = 1000
BEGAN = datetime(2024, 1, 1, tzinfo=UTC)
TUNING = Tuning(codecs=1, uploads=1, packs=2, batches=2, batch_size=MIB)


class Counting(CountingStore):
    """Counts a listing by its pages and a deletion by its batches, as S3 does."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        found = list(super().list(prefix))
        self.more(len(found) // LISTED)
        return iter(found)

    def delete(self, keys: Iterable[str]) -> None:
        named = list(keys)
        self.more(max(0, -(-len(named) // LISTED) - 1))
        super().delete(named)


@dataclass
class Archive:
    """A repository, and the newest point of each domain."""

    store: Counting
    repository: Repository
    newest: dict[str, Point]

    @classmethod
    def make(cls, points: int, domains: int) -> Archive:
        store = Counting(MemoryStore())
        archive = cls(store, repositories.create(store, KeyFile(bytes(range(32)))), {})
        rng = random.Random(points)
        for number in range(points):
            archive.back_up(f"vm{number % domains}", BEGAN + timedelta(hours=number), rng)
        return archive

    def open(self) -> Repository:
        return Repository(self.store, self.repository.descriptor, self.repository.keys)

    def back_up(self, domain: str, moment: datetime, rng: random.Random) -> None:
        """Commit a point with some changed chunks."""
        parent = self.newest.get(domain)
        pages = rng.sample(range(SIZE // CHUNK // PAGE_CHUNKS), PAGES)
        chunks = sorted(
            page * PAGE_CHUNKS + place for page in pages for place in rng.sample(range(PLACES), CHUNKS)
        )
        with self.open().run(TUNING) as run:
            writer = run.disk(SIZE, parent.disks[0].root.address if parent else None)
            buffer = run.batches.acquire()
            for place, chunk in enumerate(chunks):
                writer.announce(Extent(chunk * CHUNK, CHUNK, Kind.DATA))
                buffer.view[place * CHUNK : (place + 1) * CHUNK] = rng.randbytes(CHUNK)
            places = enumerate(chunks)
            segments = (ReadSegment(chunk * CHUNK, CHUNK, place * CHUNK) for place, chunk in places)
            writer.submit(Batch(buffer, tuple(segments)))
            run.drain()
            root = Ref.to(writer.finish())
            run.flush()
        record = DiskRecord("vda", "incremental", SIZE, root, parent=parent.point if parent else None)
        name = str(uuid.uuid5(uuid.NAMESPACE_DNS, domain))
        point = Point(new_id(moment), domain, name, moment, "pull", "incremental", (record,))
        run.commit(point)
        self.newest[domain] = point

    def packs(self) -> int:
        return sum(1 for kind in PackKind for _ in self.store.list(kind.prefix))


@contextmanager
def page_reads() -> Iterator[Counter[tuple[bytes, int]]]:
    """Counts how often each slot of a map pack is read, roots included."""
    reads: Counter[tuple[bytes, int]] = Counter()
    read = PackReader.read

    def counting(self: PackReader, kind: PackKind, pack_id: bytes, slots: Sequence[int]) -> dict[int, bytes]:
        reads.update((pack_id, slot) for slot in slots)
        return read(self, kind, pack_id, slots)

    PackReader.read = counting  # type: ignore[method-assign]
    try:
        yield reads
    finally:
        PackReader.read = read  # type: ignore[method-assign]


def measure(archive: Archive, what: str, points: int, policy: Policy, grace: timedelta) -> float:
    """One prune, as a line of the table; return its requests for each point and pack."""
    packs = archive.packs()
    archive.store.reset()
    began, cpu = time.monotonic(), time.process_time()
    with page_reads() as reads:
        report: PruneReport = prune(archive.open(), policy, grace)
    share = archive.store.requests / (points + packs)
    print(
        f"{points:7} {packs:6} {what:13} {archive.store.requests:9} {share:9.2f} {len(reads):7}"
        f" {sum(count > 1 for count in reads.values()):6} {report.packs_deleted:8}"
        f" {report.packs_compacted:10} {time.monotonic() - began:8.2f} {time.process_time() - cpu:6.2f}",
        flush=True,
    )
    return share


def case(points: int, domains: int) -> list[float]:
    """Three prunes of one repository."""
    archive = Archive.make(points, domains)
    half = points // domains // 2
    return [
        measure(archive, "first", points, Policy(), GRACE),
        measure(archive, "nothing to do", points, Policy(), GRACE),
        measure(archive, "half to go", points, Policy(last=half), timedelta(0)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--few", type=int, default=200)
    parser.add_argument("--points", type=int, default=1000)
    parser.add_argument("--domains", type=int, default=100)
    given = parser.parse_args()
    heads = " points  packs prune          requests per p.+p.   pages  twice  deleted  compacted"
    print(f"{heads}  seconds  CPU-s")
    with tempfile.TemporaryDirectory() as cache:
        os.environ["PULLER_CACHE_DIR"] = str(Path(cache))
        few, many = case(given.few, given.domains), case(given.points, given.domains)
    ratios = (f"{large / small:.2f}" for small, large in zip(few, many, strict=True))
    print("requests per point and pack, many / few: " + ", ".join(ratios))


if __name__ == "__main__":
    main()
