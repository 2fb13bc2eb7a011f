"""The works that are compared, and who takes part in each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from benchmarks import gets, ours, peers
from benchmarks.change import Change, changes
from benchmarks.cost import Cost
from benchmarks.disk import Layout
from benchmarks.stage import Stage

PULLER = "puller"
VIRTNBDBACKUP = "virtnbdbackup -z (lz4)"
ZSTD = "nbdcopy | zstd -1 -T2"
ZSTD_RCAT = "nbdcopy | zstd -1 -T2 | rclone rcat"
RCLONE = "rclone copy of virtnbdbackup's"
CONVERT = "qemu-img convert -c (zstd)"
RESTIC = "nbdcopy | restic --stdin"
VIRTNBDRESTORE = "virtnbdrestore (qcow2)"
GETS = "plain GETs of its packs"

FAST = "puller --compression fast"
FULL_FOLDER = "full to a directory"
FULL_S3 = "full to S3"
RESTORE = "restore from {place} to {format}"
INCREMENTAL = "incremental, {change}"

Play = Callable[[Stage], Cost]


@dataclass(frozen=True, slots=True)
class Work:
    """What each of the contestants does, and what happens before, untimed."""

    name: str
    contestants: dict[str, Play]
    prepare: Callable[[Stage], None] = field(default=lambda stage: None)

    def order(self, round_: int) -> Iterator[tuple[str, Play]]:
        """The contestants; another one begins each round, for whoever comes first may meet a quieter disk."""
        pairs = list(self.contestants.items())
        begin = round_ % len(pairs)
        yield from pairs[begin:] + pairs[:begin]


def all_works(layout: Layout) -> list[Work]:
    """In an order in which each finds what it needs: fulls, restores of them, incrementals."""
    return [*_fulls(), *_restores(), _unchanged(), *(_incremental(change) for change in changes(layout))]


def _fulls() -> Iterator[Work]:
    yield Work(
        FULL_FOLDER,
        {
            PULLER: ours.full_to_folder,
            FAST: ours.fast_full_to_folder,
            VIRTNBDBACKUP: peers.virtnbdbackup_full,
            ZSTD: peers.zstd_to_folder,
            CONVERT: peers.qemu_img_convert,
            RESTIC: peers.restic_stdin,
        },
    )
    contestants: dict[str, Play] = {PULLER: ours.full_to_s3, ZSTD_RCAT: peers.zstd_to_s3}
    yield Work(FULL_S3, contestants | {RCLONE: peers.rclone_copy}, _theirs_in_folder)


def _restores() -> Iterator[Work]:
    others: dict[tuple[str, str], dict[str, Play]] = {
        # It writes qcow2 alone, which is what both of ours replace.
        ("a directory", "raw"): {VIRTNBDRESTORE: peers.virtnbdbackup_restore},
        ("a directory", "qcow2"): {VIRTNBDRESTORE: peers.virtnbdbackup_restore},
        ("S3", "raw"): {GETS: gets.get_all},
    }
    for place, prepare in (("a directory", _in_folders), ("S3", _in_bucket)):
        for format_ in ours.FORMATS:
            name = RESTORE.format(place=place, format=format_)
            contestants = {PULLER: _restore(place, format_)} | others.get((place, format_), {})
            yield Work(name, contestants, prepare)


def _restore(place: str, format_: str) -> Play:
    def play(stage: Stage) -> Cost:
        repository = stage.bucket if place == "S3" else str(stage.place("puller"))
        return ours.restore(stage, repository, format_)

    return play


def _unchanged() -> Work:
    """With a repository in a directory, as virtnbdbackup's is; the incrementals after it go to S3."""
    contestants: dict[str, Play] = {
        PULLER: ours.incremental_to_folder,
        VIRTNBDBACKUP: peers.virtnbdbackup_incremental,
    }
    return Work(INCREMENTAL.format(change="nothing changed") + ", to a directory", contestants, _in_folders)


def _incremental(change: Change) -> Work:
    def prepare(stage: Stage) -> None:
        _in_bucket(stage)
        _theirs_in_folder(stage)
        stage.change(change)

    contestants: dict[str, Play] = {PULLER: ours.incremental, VIRTNBDBACKUP: peers.virtnbdbackup_incremental}
    return Work(INCREMENTAL.format(change=change.name), contestants, prepare)


# What an earlier work has left, unless it was left out.


def _in_folders(stage: Stage) -> None:
    if not stage.place("puller").exists():
        ours.full_to_folder(stage)
    _theirs_in_folder(stage)


def _theirs_in_folder(stage: Stage) -> None:
    if not stage.place("virtnbdbackup").exists():
        peers.virtnbdbackup_full(stage)


def _in_bucket(stage: Stage) -> None:
    if not stage.cloud.urls("puller/points/"):
        ours.full_to_s3(stage)
