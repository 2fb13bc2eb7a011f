"""puller's part: backups and restores by its command line, encrypted, deduplicated, chunks of 64 KiB."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from benchmarks.cost import CommandFailed, Cost, folder_size
from benchmarks.host import DISK, Domain
from benchmarks.stage import Stage

PULLER = (sys.executable, "-m", "puller.cli", "--json")
FORMATS = ("raw", "qcow2")


def full_to_folder(stage: Stage) -> Cost:
    """A full into a fresh repository in a folder, which stays for the restores."""
    return _full(stage, stage.place("puller"), stage.ours)


def fast_full_to_folder(stage: Stage) -> Cost:
    """The same with the compression that takes least CPU; nothing stays."""
    return full_of(stage, stage.ours, "--compression", "fast")


def full_of(stage: Stage, domain: Domain, *options: str) -> Cost:
    """A full of another domain, of which nothing stays."""
    cost = _full(stage, stage.place("puller-other"), domain, *options)
    shutil.rmtree(stage.place("puller-other"))
    return cost


def _full(stage: Stage, repository: Path, domain: Domain, *options: str) -> Cost:
    shutil.rmtree(repository, ignore_errors=True)
    _init(stage, str(repository))
    cost = _backup(stage, domain, str(repository), "--full", *options)
    return replace(cost, stored=folder_size(repository))


def full_to_s3(stage: Stage) -> Cost:
    """A full into a fresh repository in the bucket; the round's server is fresh."""
    _init(stage, stage.bucket)
    return _backup(stage, stage.ours, stage.bucket, "--full")


def incremental_to_folder(stage: Stage) -> Cost:
    """Whatever changed since the last one, into the folder of the full."""
    folder = stage.place("puller")
    before = folder_size(folder)
    cost = _backup(stage, stage.ours, str(folder))
    return replace(cost, stored=folder_size(folder) - before)


def incremental(stage: Stage) -> Cost:
    """Whatever changed since the last one, into the bucket."""
    return _backup(stage, stage.ours, stage.bucket)


def restore(stage: Stage, repository: str, format_: str) -> Cost:
    """The newest point into a folder."""
    output = stage.place(f"restored-{format_}")
    command = [
        "restore",
        "-r",
        repository,
        f"{stage.ours.name}@latest",
        "-o",
        str(output),
        "--format",
        format_,
    ]
    try:
        cost = stage.meter().run([*PULLER, *command])
        return replace(cost, stored=folder_size(output))
    finally:
        shutil.rmtree(output, ignore_errors=True)


def verify(stage: Stage, repository: str) -> None:
    """Restore the newest point and compare it with the disk. Raises :class:`CommandFailed`."""
    output = stage.place("verified.raw")
    command = ["restore", "-r", repository, f"{stage.ours.name}@latest", "--disk", DISK, "-o", str(output)]
    stage.meter().run([*PULLER, *command])
    with stage.ours.export(stage.place(".")) as uri:
        compare = ["qemu-img", "compare", "-f", "raw", "-F", "raw", str(output), uri]
        done = subprocess.run(compare, capture_output=True, text=True, check=False)
    output.unlink()
    if done.returncode:
        raise CommandFailed(f"the restored disk differs: {done.stdout}{done.stderr}")


def dirty_bytes(said: str) -> int:
    """What the last backup of one disk found changed, out of its JSON."""
    (point,) = json.loads(said.splitlines()[-1])["points"]
    return int(point["disks"][0]["dirty_bytes"])


def _init(stage: Stage, repository: str) -> None:
    stage.meter().run([*PULLER, "init", "-r", repository])


def _backup(stage: Stage, domain: Domain, repository: str, *options: str) -> Cost:
    return stage.meter(domain).run([*PULLER, "backup", "-r", repository, *options, domain.name])
