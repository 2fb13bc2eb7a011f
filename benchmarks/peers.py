"""What people use in puller's place, each as its manual shows it, from the same kind of export.

virtnbdbackup makes its own pull job; the others read an export of a job that is open already, which spares
them the few hundredths of a second that a begin takes.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from benchmarks import tools
from benchmarks.cloud import BUCKET
from benchmarks.cost import Cost, Meter, folder_size
from benchmarks.stage import Stage


def virtnbdbackup_full(stage: Stage) -> Cost:
    """A full with lz4 to a fresh folder."""
    folder = stage.place("virtnbdbackup")
    shutil.rmtree(folder, ignore_errors=True)
    return replace(_virtnbdbackup(stage, folder, "full"), stored=folder_size(folder))


def virtnbdbackup_incremental(stage: Stage) -> Cost:
    """Whatever changed since the last one, to the folder of the full."""
    folder = stage.place("virtnbdbackup")
    before = folder_size(folder)
    cost = _virtnbdbackup(stage, folder, "inc")
    return replace(cost, stored=folder_size(folder) - before)


def virtnbdbackup_restore(stage: Stage) -> Cost:
    """virtnbdrestore of what is in the folder, to the format of the source, which is qcow2."""
    output = stage.place("virtnbdrestore")
    restore = str(tools.newest("virtnbdbackup").path.with_name("virtnbdrestore"))
    command = [restore, "-U", stage.host.uri, "-n", "-i", str(stage.place("virtnbdbackup"))]
    socket = str(stage.place("restore.sock"))
    try:
        cost = stage.meter().run([*command, "-o", str(output), "-f", socket])
        return replace(cost, stored=folder_size(output))
    finally:
        shutil.rmtree(output, ignore_errors=True)


def rclone_copy(stage: Stage) -> Cost:
    """The folder of virtnbdbackup's full to the bucket, which is the second half of its way to S3."""
    source = str(stage.place("virtnbdbackup"))
    return stage.meter().run(
        [tools.path("rclone"), "copy", "--s3-no-check-bucket", source, f"cloud:{BUCKET}/copied"]
    )


def zstd_to_folder(stage: Stage) -> Cost:
    """``nbdcopy | zstd -1 -T2`` to a file."""
    with _exported(stage) as (meter, uri):
        output = stage.place("disk.zst")
        cost = meter.shell(f"nbdcopy '{uri}' - | zstd -1 -T2 -q -f -o '{output}'")
        return _stored(cost, output)


def zstd_to_s3(stage: Stage) -> Cost:
    """The same to the bucket by ``rclone rcat``."""
    with _exported(stage) as (meter, uri):
        rcat = f"{tools.path('rclone')} rcat --s3-no-check-bucket cloud:{BUCKET}/disk.zst"
        return meter.shell(f"nbdcopy '{uri}' - | zstd -1 -T2 -q | {rcat}")


def qemu_img_convert(stage: Stage) -> Cost:
    """``qemu-img convert -c`` to a qcow2 compressed with zstd."""
    with _exported(stage) as (meter, uri):
        output = stage.place("converted.qcow2")
        return _stored(meter.run(convert_command(uri, output)), output)


def convert_command(uri: str, output: Path) -> list[str]:
    """The call of qemu-img."""
    options = ["-c", "-O", "qcow2", "-o", "compression_type=zstd"]
    return ["qemu-img", "convert", "-f", "raw", *options, uri, str(output)]


def restic_stdin(stage: Stage) -> Cost:
    """``nbdcopy | restic backup --stdin`` to a fresh repository in a folder."""
    repository = stage.place("restic")
    restic = tools.path("restic")
    stage.meter().run([restic, "-r", str(repository), "init"])
    with _exported(stage) as (meter, uri):
        backup = f"{restic} -r '{repository}' backup --quiet --stdin --stdin-filename disk"
        cost = meter.shell(f"nbdcopy '{uri}' - | {backup}")
        return _stored(cost, repository)


@contextmanager
def _exported(stage: Stage) -> Iterator[tuple[Meter, str]]:
    with stage.ours.export(stage.place(".")) as uri:
        yield stage.meter(stage.ours), uri


def _stored(cost: Cost, output: Path) -> Cost:
    """With the size of the output, which is removed."""
    if output.is_dir():
        size = folder_size(output)
        shutil.rmtree(output)
    else:
        size = output.stat().st_size
        output.unlink()
    return replace(cost, stored=size)


def virtnbdbackup_command(stage: Stage, name: str, folder: Path, level: str) -> list[str]:
    """The call of virtnbdbackup; ``level`` is ``full``, ``inc`` or ``copy``."""
    options = ["-n", "-z", "-l", level, "-S", str(stage.place(".")), "-f", str(stage.place("backup.sock"))]
    return [tools.path("virtnbdbackup"), "-U", stage.host.uri, "-d", name, "-o", str(folder), *options]


def _virtnbdbackup(stage: Stage, folder: Path, level: str) -> Cost:
    return stage.meter(stage.theirs).run(virtnbdbackup_command(stage, stage.theirs.name, folder, level))
