"""Three backups of a guest that writes all the while, three restores, and an independent comparison.

libvirt's QEMU driver runs inside this process (``qemu:///embed``), so no daemon and no domain of the
machine is touched. While each backup job is open, ``nbdcopy`` copies the same frozen exports: these
copies, made without puller, are what the restored disks are compared with.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import NoReturn, Protocol

import libvirt

import puller
from puller.errors import PullerError
from puller.units import format_bytes
from tests.lab.guest import Console, GuestError, running_guest
from tests.lab.kernel import NoKernel
from tests.lab.machine import EmbeddedLibvirt

DOMAIN = "demo"
PASSWORD = "demo"  # of a repository that lives for a minute, or that --keep lets one look into
POINTS = 3
GENERATIONS = 8
"""Turns of writing that the guest gets before each backup: a few seconds."""
PATIENCE = 60.0
"""Seconds that the guest may take to boot, or to write its generations, on a slow machine."""


class Export(Protocol):
    """What the backup shows of a frozen disk."""

    @property
    def target(self) -> str:
        """The disk's name in the domain."""

    @property
    def uri(self) -> str:
        """Where any NBD client reads the disk as it was at the frozen moment."""


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table. Sizes are in bytes, None where they mean nothing."""

    step: str
    kind: str
    size: int
    moved: int
    stored: int | None
    seconds: float
    verdict: str


@dataclass(frozen=True, slots=True)
class Taken:
    """The restore point of one backup with the independent copies of its disks, by target."""

    number: int
    point: puller.Point
    copies: dict[str, Path]
    row: Row


def main() -> int:
    """Run the demonstration; 0 if every disk of every point came back byte by byte."""
    options = _options()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    try:
        with ExitStack() as stack:
            folder = stack.enter_context(_folder(options.keep))
            return _demonstrate(stack, folder, options.s3)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except PullerError as error:
        return _fail(f"{error.message}\n{error.advice}", error.exit_code)
    except (GuestError, NoKernel, libvirt.libvirtError, subprocess.CalledProcessError) as error:
        return _fail(str(error), 1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/demo", description="Back up and restore a guest that writes."
    )
    parser.add_argument(
        "--s3", action="store_true", help="store in a local SeaweedFS server, not in a directory"
    )
    parser.add_argument("--keep", action="store_true", help="leave repository and images behind")
    return parser.parse_args()


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    """Turn the signal into an exception, so that the guest and the server are ended; once is enough."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


def _fail(text: str, status: int) -> int:
    print(f"demo: {text}", file=sys.stderr)
    return status


@contextmanager
def _folder(keep: bool) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="puller-demo-"))
    os.environ["PULLER_CACHE_DIR"] = str(folder / "cache")  # goes with the rest
    try:
        yield folder
    finally:
        if keep:
            print(f"kept: {folder} (the repository's password is {PASSWORD})")
        else:
            shutil.rmtree(folder)


def _demonstrate(stack: ExitStack, folder: Path, on_s3: bool) -> int:
    url = _seaweed_url(stack, folder) if on_s3 else str(folder / "repository")
    repository = puller.create_repository(url, password=PASSWORD)
    taken = _back_up(repository, folder)
    restored = [_restore(repository, each, folder) for each in taken]
    _print_table([each.row for each in taken] + restored)
    return _conclude(taken, restored)


def _seaweed_url(stack: ExitStack, folder: Path) -> str:
    from tests.lab.seaweed import Seaweed  # only the development set of packages has the server

    _say("start SeaweedFS")
    server = stack.enter_context(Seaweed(folder / "seaweed"))
    os.environ.update(server.environment())
    server.make_bucket("backups")
    return "s3://backups/demo"


def _back_up(repository: puller.Repository, folder: Path) -> list[Taken]:
    """Boot the guest and take the points while it writes; the guest is gone afterwards."""
    home = folder / "guest"
    home.mkdir()
    with closing(EmbeddedLibvirt(folder / "libvirt")) as embedded:
        _say("boot a guest (no KVM needed)")
        with running_guest(embedded.uri, DOMAIN, home) as guest:
            guest.console.wait_ready(PATIENCE)
            return [
                _take(number, repository, embedded.uri, guest.console, folder)
                for number in range(1, POINTS + 1)
            ]


def _take(number: int, repository: puller.Repository, uri: str, console: Console, folder: Path) -> Taken:
    """Let the guest write for a while, then back it up while it goes on."""
    began_at = console.generation()
    console.wait_generation(began_at + GENERATIONS, PATIENCE)
    _say(f"the guest wrote generations {began_at + 1} to {console.generation()}; now backup {number}")
    reference = _Reference(folder / f"reference-{number}")
    point = puller.backup(
        repository, DOMAIN, connect=uri, scratch_dir=str(folder / "guest"), on_frozen=reference.copy
    )
    _say(
        f"point {point.point} is committed; meanwhile the guest went on to generation {console.generation()}"
    )
    row = Row(
        f"backup {number}",
        point.kind,
        sum(disk.size for disk in point.disks),
        sum(disk.read_bytes for disk in point.disks),
        sum(disk.stored_bytes for disk in point.disks),
        point.seconds - reference.seconds,
        "committed",
    )
    return Taken(number, point, reference.copies, row)


class _Reference:
    """Copies of the frozen disks that puller has no part in, and the seconds spent on them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.copies: dict[str, Path] = {}
        self.seconds = 0.0

    def copy(self, exports: Iterable[Export]) -> None:
        """Copy every export with nbdcopy."""
        began = time.monotonic()
        self._folder.mkdir()
        for export in exports:
            path = self._folder / f"{export.target}.raw"
            subprocess.run(["nbdcopy", export.uri, str(path)], check=True)
            self.copies[export.target] = path
        self.seconds = time.monotonic() - began


def _restore(repository: puller.Repository, taken: Taken, folder: Path) -> Row:
    """Restore a point and compare every disk with its reference."""
    output = folder / f"restored-{taken.number}"
    _say(f"restore {taken.point.point} and compare")
    result = puller.restore(repository, taken.point.point, output=str(output), format="raw")
    equal = [_same(copy, output / f"{target}.raw") for target, copy in taken.copies.items()]
    return Row(
        f"restore {taken.number}",
        "raw",
        taken.row.size,
        sum(disk.bytes_written for disk in result.disks),
        None,
        sum(disk.seconds for disk in result.disks),
        "equal" if all(equal) else "DIFFERENT",
    )


def _same(one: Path, other: Path) -> bool:
    """Whether two files are equal byte by byte, asked of a program that is not ours."""
    return subprocess.run(["cmp", "--silent", str(one), str(other)], check=False).returncode == 0


def _print_table(rows: Iterable[Row]) -> None:
    print(f"\n{'step':<11}{'kind':<13}{'disks':>11}{'moved':>11}{'stored':>11}{'seconds':>9}  verdict")
    for row in rows:
        stored = "" if row.stored is None else format_bytes(row.stored)
        print(
            f"{row.step:<11}{row.kind:<13}{format_bytes(row.size):>11}{format_bytes(row.moved):>11}"
            f"{stored:>11}{row.seconds:>9.2f}  {row.verdict}"
        )
    print("moved: read from the guest, or written to the restored disks that is not zero")


def _conclude(taken: list[Taken], restored: list[Row]) -> int:
    """Say the verdict. Points that do not differ would prove nothing, so that is a failure too."""
    disks = sum(len(each.copies) for each in taken[:1])
    exact = all(row.verdict == "equal" for row in restored)
    distinct = not any(
        _same(copy, later.copies[target])
        for one, later in pairwise(taken)
        for target, copy in one.copies.items()
    )
    if not distinct:
        print("the guest did not change a disk between two points: nothing was shown")
    print(f"\nbyte-exact: {'yes' if exact else 'NO'} ({disks} disks, {len(taken)} points)")
    return 0 if exact and distinct else 1


def _say(text: str) -> None:
    print(f"- {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
