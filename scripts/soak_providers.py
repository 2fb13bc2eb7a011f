"""Run a long history on each S3 server that can be installed here, and print a table of the results.

On each: the stores' contract, then a repository in which two running machines are backed up at once beside a
prune and a check that never rest, all points compared with copies by a reader that is not puller's, a doctor,
and at last the deletion of everything.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

import puller
from puller.cancelling import WORK
from puller.upkeep.pruning.prune import prune
from puller.upkeep.retention.delete import delete
from puller.upkeep.retention.policy import Policy
from tests.lab.machine import DiskSpec, EmbeddedLibvirt, Machine
from tests.lab.providers import BUCKETS, KINDS, SERVERS
from tests.lab.rivals import SIZE, Rivals
from tests.lab.s3server import S3Server

ROUNDS = 6
"""Backups of each machine at least; more until points and packs have gone and packs were compacted."""

HEADINGS = (
    "server", "bucket", "contract", "`If-None-Match`", "backups", "points compared", "prunes",
    "packs deleted", "packs compacted", "checks", "doctor", "left after deletion", "result",
)  # fmt: skip


@dataclass(frozen=True)
class Played:
    """The results of one server's history."""

    conditional: bool
    rivals: Rivals
    compared: int
    doctor: str
    left: list[str]


def main() -> int:
    """Run the histories; the exit status is 0 if everything was exact on all servers."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="puller-libvirt-") as root:
        libvirt = EmbeddedLibvirt(Path(root))  # a process can have one only
        rows = [row for server in arguments.servers for row in _rows(server, arguments, libvirt)]
        libvirt.close()
    print(_table(rows))
    return 0 if all(row[-1] == "exact" for row in rows) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/soak-providers", description=__doc__)
    parser.add_argument("servers", nargs="*", default=list(SERVERS), metavar="SERVER", help="default: all")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="of the histories, default 1")
    parser.add_argument("--history", action="store_true", help="leave out the contract")
    arguments = parser.parse_args()
    if unknown := set(arguments.servers) - SERVERS.keys():
        parser.error(f"unknown server {unknown.pop()!r}: use {', '.join(SERVERS)}")
    return arguments


def _rows(name: str, arguments: argparse.Namespace, libvirt: EmbeddedLibvirt) -> Iterator[list[str]]:
    with tempfile.TemporaryDirectory(prefix=f"puller-{name}-") as folder:
        contracts = {
            kind: "" if arguments.history else _contract(name, kind, Path(folder)) for kind in KINDS[name]
        }
        with SERVERS[name](Path(folder) / "server") as server:
            for number, kind in enumerate(KINDS[name]):
                history = History(server, kind, arguments.seed + number, Path(folder) / kind, libvirt)
                yield [f"{name} {server.version}", kind, *_row(history, contracts[kind])]


def _contract(name: str, kind: str, folder: Path) -> str:
    """The result of the contract's tests on a server of their own."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "tests/store/test_contract.py",
        "-k",
        f"{name} and {kind}",
    ]
    done = subprocess.run(
        [*command, f"--basetemp={folder / 'pytest'}"],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"PULLER_TEST_SERVERS": name},
    )
    last = done.stdout.strip().splitlines()[-1]
    print(f"{name}, {kind}: contract: {last}", flush=True)
    if done.returncode:
        print(done.stdout, file=sys.stderr, flush=True)
    counts = [part for part in last.split(" in ")[0].split(", ") if "deselected" not in part]
    return ("" if done.returncode == 0 else "FAILED: ") + ", ".join(counts)


def _row(history: History, contract: str) -> list[str]:
    began = time.monotonic()
    try:
        played = history.play()
    except (Exception, pytest.skip.Exception):  # noqa: BLE001 - the other servers have their turn
        traceback.print_exc()
        return [contract, *[""] * (len(HEADINGS) - 4), "FAILED"]
    print(f"{history.url}: {time.monotonic() - began:.0f} s", flush=True)
    counts = played.rivals.counts
    exact = not played.left and not contract.startswith("FAILED")
    return [
        contract,
        "honoured" if played.conditional else "not honoured",
        str(counts["committed"]),
        str(played.compared),
        *[str(counts[count]) for count in ("prunes", "deleted", "compacted", "checks")],
        played.doctor,
        ", ".join(played.left) or "nothing",
        "exact" if exact else "NOT EXACT",
    ]


@dataclass(frozen=True)
class History:
    """The history in a bucket of one kind on a server."""

    server: S3Server
    kind: str
    seed: int
    folder: Path
    libvirt: EmbeddedLibvirt

    @property
    def url(self) -> str:
        """Of the repository."""
        return f"s3://soak-{self.kind}/kvm"

    def play(self) -> Played:
        """Raises what anything in it raises, and AssertionError if a point is not exact."""
        self.folder.mkdir()
        self.server.make_bucket(f"soak-{self.kind}", **BUCKETS[self.kind])
        with pytest.MonkeyPatch.context() as patch:
            self.server.use(patch)
            # A whole cloud beside two machines on two cores may be silent for longer than a wrong endpoint.
            patch.setattr("puller.cancelling.PROMPT", WORK)
            patch.setenv("PULLER_CACHE_DIR", str(self.folder / "caches"))
            created = puller.create_repository(self.url, password=None)
            rivals = Rivals(self.url, self.libvirt.uri, self.folder, self.seed)
            with self._machine("one") as one, self._machine("two") as two:
                rivals.play([one, two], ROUNDS)
                compared = rivals.verify()
                doctor = _doctor(self.url, self.libvirt.uri, one.name)
            left = _delete_all(self.url)
        return Played(created.descriptor.conditional_writes, rivals, compared, doctor, left)

    def _machine(self, name: str) -> Machine:
        return self.libvirt.machine(f"{name}-{self.kind}", self.folder, [DiskSpec("vda", SIZE)])


def _doctor(url: str, connect: str, domain: str) -> str:
    """The faults that doctor finds, apart from those of the host, which are the same for all servers."""
    findings = puller.doctor(url, connect=connect, domains=[domain])
    found = [
        finding for finding in findings if finding.status is not puller.Status.OK and finding.subject == url
    ]
    for finding in found:
        print(f"{url}: doctor: {finding.status}: {finding.text}", flush=True)
    return ", ".join(finding.name for finding in found) or "ok"


def _delete_all(url: str) -> list[str]:
    """Delete all points and prune; return the names of objects that should be gone but are not."""
    repository = puller.open_repository(url)
    delete(repository, [point.point for point in puller.list_points(repository)])
    for _ in range(2):
        prune(puller.open_repository(url), Policy(), timedelta(0))
    stays = ("repository.json", "condemned/", "index/", "keys/")
    return [info.key for info in repository.store.list("") if not info.key.startswith(stays)]


def _table(rows: list[list[str]]) -> str:
    lines = [HEADINGS, ["---"] * len(HEADINGS), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
