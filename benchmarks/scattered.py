"""One measured backup: ``prepare`` in one process, ``measure`` in another one, for an honest peak of memory.

A qcow2 image with a persistent bitmap, served by qemu-nbd; a base point of it; then the incremental that
is measured, on a host that has no cache of the index. ``scale.py`` prints what comes of it.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbd

from benchmarks.counting import CountingStore
from puller.backups.transfer import WINDOW
from puller.cli.libraries import restrain
from puller.nbd.export import Export
from puller.nbd.image import ImageServer, create_qcow2
from puller.nbd.reader import read
from puller.pipeline.readgate import OpenGate
from puller.repository import repository as repositories
from puller.repository.format.address import Address
from puller.repository.format.packname import PackKind
from puller.repository.keys.key_slots import KeyFile
from puller.repository.repository import Repository
from puller.repository.writing.chunkindex import ChunkIndex
from puller.repository.writing.claims import Claims
from puller.repository.writing.diskmap import DiskMap
from puller.store.directory.folder import FolderStore
from puller.units import CHUNK, KIB, MIB, PAGE_CHUNKS

KEY = KeyFile(bytes(range(32)))
IN_FLIGHT = 16
PROGRAMS = 64 * MIB

MAP_WORK = [(DiskMap, "announce"), (DiskMap, "place"), (DiskMap, "finish")]
INDEX_WORK = [
    (repositories, "load_hints"),
    *((ChunkIndex, name) for name in ("find", "add")),
    *((Claims, name) for name in ("admit", "hold")),
]

Write = Callable[[nbd.NBD, int], int]


@dataclass(frozen=True)
class Cost:
    """What a backup took, the start of the process aside. Sizes are in bytes.

    ``share`` is map and index work as a part of ``cpu``, ``metadata`` what was stored in maps, index and the
    footers of packs, ``map_reads`` requests for parts of map packs, ``pages`` those that the changes touch.
    """

    seconds: float
    cpu: float
    share: float
    requests: int
    map_reads: int
    metadata: int
    peak: int
    pages: int
    logical: int


def write(image: Path, chunks: Iterable[int], make: Write) -> None:
    """Start a request for each chunk, some at a time."""
    with ImageServer(image, "qcow2") as server:
        handle = nbd.NBD()
        handle.connect_uri(server.uri)
        for chunk in chunks:
            while handle.aio_in_flight() >= IN_FLIGHT:
                handle.poll(-1)
                while cookie := handle.aio_peek_command_completed():
                    handle.aio_command_completed(cookie)
            make(handle, chunk * CHUNK)
        while handle.aio_in_flight():
            handle.poll(-1)
        handle.flush()
        handle.shutdown()


def marks(handle: nbd.NBD, offset: int) -> int:
    """512 bytes, other ones in each chunk."""
    return int(handle.aio_pwrite(bytearray(random.Random(offset).randbytes(512)), offset))


def zeros(handle: nbd.NBD, offset: int) -> int:
    return int(handle.aio_zero(CHUNK, offset))


def programs() -> Write:
    """Writes whole chunks: windows into this machine's programs, no two alike, which zstd about halves."""
    corpus = bytearray()
    for path in sorted(Path("/usr/bin").iterdir()):
        if path.is_file() and len(corpus) < PROGRAMS:
            corpus += path.read_bytes()[: PROGRAMS - len(corpus)]

    def make(handle: nbd.NBD, offset: int) -> int:
        start = random.Random(offset).randrange(len(corpus) - CHUNK)
        body = corpus[start : start + CHUNK]
        body[:8] = offset.to_bytes(8, "little")
        return int(handle.aio_pwrite(body, offset))

    return make


class Stopwatch:
    """Adds up the CPU-seconds that threads spend in some functions, once where one calls another.

    Less what the watch itself takes, about as much as the shortest of these functions.
    """

    def __init__(self) -> None:
        self._spent: list[float] = []
        self._here = threading.local()
        self._own = min(-time.thread_time() + time.thread_time() for _ in range(1000))

    @property
    def seconds(self) -> float:
        return sum(self._spent)

    @contextlib.contextmanager
    def on(self, owner: Any, name: str) -> Iterator[None]:
        """Time calls of ``owner.name``."""
        real = getattr(owner, name)

        def call(*args: Any, **options: Any) -> Any:
            if getattr(self._here, "inside", False):
                return real(*args, **options)
            self._here.inside, began = True, time.thread_time()
            try:
                return real(*args, **options)
            finally:
                self._spent.append(time.thread_time() - began - self._own)
                self._here.inside = False

        setattr(owner, name, call)
        try:
            yield
        finally:
            setattr(owner, name, real)


def take(repository: Repository, image: Path, bitmap: str | None, base: Address | None) -> Address:
    """Store the image as the agent does: one reader thread, codecs and uploads of the run."""
    with (
        ImageServer.read_only(image, "qcow2", bitmap=bitmap) as server,
        repository.run() as run,
        Export(server.uri, f"qemu:dirty-bitmap:{bitmap}" if bitmap else None) as export,
    ):
        writer = run.disk(export.size, base)
        extents = export.changes() if bitmap else export.contents()

        def reading() -> None:
            for batch in read(export, extents, run.batches, gate=OpenGate(WINDOW), planned=writer.announce):
                writer.submit(batch)

        run.flow.spawn("read", reading).join()
        run.drain()
        root = writer.finish()
        run.flush()
    return root


@dataclass(frozen=True)
class Case:
    """A disk of ``size`` bytes of which ``count`` scattered chunks change, ``kind`` telling to what.

    With kind ``full`` all of the disk is data, and it is its first backup.
    """

    folder: Path
    size: int
    count: int
    kind: str

    @property
    def image(self) -> Path:
        return self.folder / "disk.qcow2"

    @property
    def base(self) -> Path:
        return self.folder / "base"

    def chunks(self) -> list[int]:
        """The chunks that the measured backup brings, the same ones at each call."""
        return sorted(random.Random(self.count).sample(range(self.size // CHUNK), self.count))

    def store(self) -> CountingStore:
        return CountingStore(FolderStore(self.folder / "repository"))


def prepare(case: Case) -> None:
    """Make image and repository, and a base point unless the case is a full."""
    create_qcow2(case.image, case.size)
    repository = repositories.create(case.store(), KEY)
    if case.kind != "full":
        write(case.image, case.chunks(), marks)
        root = take(repository, case.image, None, None)
        case.base.write_text(f"{root.pack.hex()} {root.slot}", "ascii")
    subprocess.run(["qemu-img", "bitmap", "--add", str(case.image), "changed"], check=True)
    write(case.image, case.chunks(), zeros if case.kind == "zero" else programs())


def measure(case: Case) -> Cost:
    """Back up what has changed since the base, on a host that has no cache of the index."""
    restrain()  # as every command does
    os.environ["PULLER_CACHE_DIR"] = str(case.folder / "other-host")
    store = case.store()
    repository = repositories.open_repository(store, KEY)
    before = {info.key for info in store.list("packs/")}
    base, bitmap = None, None
    if case.base.exists():
        pack, slot = case.base.read_text("ascii").split()
        base, bitmap = Address(bytes.fromhex(pack), int(slot)), "changed"
    store.reset()
    watch = Stopwatch()
    with contextlib.ExitStack() as stack:
        for owner, name in [*MAP_WORK, *INDEX_WORK]:
            stack.enter_context(watch.on(owner, name))
        wall, cpu = time.monotonic(), time.process_time()
        take(repository, case.image, bitmap, base)
        wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB
    requests, map_reads = store.requests, store.reads("maps/")
    metadata = store.stored("maps/") + store.stored("index/")
    for name in {info.key for info in store.list("packs/")} - before:
        metadata += tail_of(repository, name)
    pages = len({chunk // PAGE_CHUNKS for chunk in case.chunks()})
    share = watch.seconds / cpu
    return Cost(wall, cpu, share, requests, map_reads, metadata, peak, pages, case.count * CHUNK)


def tail_of(repository: Repository, name: str) -> int:
    """Bytes of a data pack that are not guest data: its footer and trailer."""
    pack = repository.packs.open(PackKind.DATA, bytes.fromhex(name.rpartition("/")[2]))
    return pack.size - int(pack.footer.offsets[-1])
