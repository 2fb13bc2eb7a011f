"""Where a round is played: the domains, the S3 server and the folders that all contestants share."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Self

from benchmarks.change import Change
from benchmarks.cloud import BUCKET, Cloud
from benchmarks.cost import Meter
from benchmarks.disk import Layout, make_disk
from benchmarks.host import Boot, Domain, Host

PASSWORD = "benchmark"  # of repositories that live for a round


class Stage:
    """A context. ``ours`` is the domain that puller and the copying tools read, ``theirs`` virtnbdbackup's.

    Two domains, because virtnbdbackup refuses one that has checkpoints of others. Their disks are equal.
    """

    def __init__(self, folder: Path, work: Path, layout: Layout) -> None:
        self._folder = folder
        self._work = work
        self.layout = layout
        self._round = folder
        self._stack = ExitStack()
        self._changes = 0
        self.beside: Callable[[], AbstractContextManager[None]] = nullcontext

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.disk = make_disk(self._work, self.layout)
            self.host = stack.enter_context(Host(self._folder / "host"))
            self.ours = self.start("ours")
            self.theirs = self.start("theirs")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *failure: object) -> None:
        self._stack.close()

    def start(self, name: str, boot: Boot | None = None, *, cached: bool = True) -> Domain:
        """Start a domain, standing still, on a copy of the disk, which is in the page cache if ``cached``."""
        image = self._folder / f"{name}.qcow2"
        shutil.copyfile(self.disk, image)
        return self.host.domain(name, image, boot, cached=cached)

    @contextmanager
    def round(self, number: int) -> Iterator[None]:
        """A fresh folder and a fresh server, both gone afterwards."""
        self._round = self._folder / f"round-{number}"
        self._round.mkdir()
        try:
            with Cloud(self._round / "cloud") as self.cloud:
                yield
        finally:
            shutil.rmtree(self._round)

    def place(self, name: str) -> Path:
        """A path in the round's folder."""
        return self._round / name

    @property
    def bucket(self) -> str:
        """The URL of a repository in the round's bucket."""
        return f"s3://{BUCKET}/puller"

    def meter(self, domain: Domain | None = None) -> Meter:
        """Measures commands, and what QEMU and the server do for them."""
        own = {"PULLER_PASSWORD": PASSWORD, "PULLER_CACHE_DIR": str(self.place("cache"))}
        restic = {"RESTIC_PASSWORD": PASSWORD, "RESTIC_CACHE_DIR": str(self.place("restic-cache"))}
        environment = self.cloud.environment() | self.host.variables() | own | restic
        return Meter(self._round, environment, domain.pid if domain else None, self.cloud, self.beside)

    def change(self, change: Change) -> None:
        """Change both domains' disks alike."""
        self._changes += 1
        for domain in (self.ours, self.theirs):
            change.apply(domain, self.layout, self.disk, self._changes)
