"""Boots a small Debian with systemd under QEMU, with puller's package in it, and looks at a night.

As in the quick start, ``puller config init`` and ``puller init`` set everything up. Only the timer's time
differs.

In the guest, libvirt runs a machine of its own that stands still (TCG in TCG). What systemd, the journal, the
repository and the metrics file say comes back in a tar on the second disk.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
WORK = HERE.parent / "build" / "systemd"
RELEASE = "bookworm"
PACKAGES = (
    "systemd,systemd-sysv,udev,dbus,python3,python3-libvirt,python3-libnbd,libvirt-daemon-system,"
    "libvirt-daemon-driver-qemu,qemu-system-x86,qemu-utils,linux-image-cloud-amd64"
)
QEMU = ("qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", "1536", "-smp", "2")
QUIET = ("-nic", "none", "-display", "none", "-no-reboot")
LIMIT = 1800
"""Seconds for the guest, from power on to power off. On two idle cores it takes about a tenth."""


class SoakError(Exception):
    """Something is not as it should be."""


def call(*words: str | Path, **options: Any) -> None:
    print("+", *words, flush=True)
    subprocess.run([str(word) for word in words], check=True, **options)


def base() -> Path:
    """Debian, as a tar, made once."""
    made = WORK / "debian.tar"
    if not made.exists():
        part = made.with_name("part.tar")
        call(
            "mmdebstrap",
            "--variant=minbase",
            f"--include={PACKAGES}",
            '--aptopt=Apt::Install-Recommends "false"',
            "--dpkgopt=path-exclude=/usr/share/doc/*",
            "--dpkgopt=path-exclude=/usr/share/man/*",
            "--dpkgopt=path-exclude=/usr/share/locale/*",
            RELEASE,
            part,
        )
        part.rename(made)
    return made


def package() -> Path:
    """The package of puller as it is now."""
    call(HERE / "package", RELEASE)
    found = (HERE.parent / "dist").glob("puller_*~deb12_*.deb")
    return max(found, key=lambda path: path.stat().st_mtime)


def root() -> Path:
    """The guest's file system, in a folder, with the package installed as a user installs it."""
    folder = WORK / "root"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    call("tar", "xf", base(), "-C", folder, "--exclude=./dev/*")
    shutil.copy(package(), folder / "puller.deb")
    install = ("apt-get", "-qq", "-y", "--no-install-recommends", "install", "/puller.deb")
    call("chroot", folder, "env", "DEBIAN_FRONTEND=noninteractive", *install)
    _furnish(folder)
    return folder


def _furnish(folder: Path) -> None:
    """The lab's script, which a unit starts."""
    guest = HERE / "systemd-guest"
    shutil.copytree(guest, folder / "lab")
    (folder / "lab" / "out").mkdir()
    shutil.copy(guest / "lab.service", folder / "etc/systemd/system")
    wants = folder / "etc/systemd/system/multi-user.target.wants"
    (wants / "lab.service").symlink_to("/etc/systemd/system/lab.service")


def boot(folder: Path) -> Path:
    """Run the guest to its end; return the folder with what it handed over."""
    disk, answer, out = WORK / "root.img", WORK / "answer.img", WORK / "out"
    for path, size in ((disk, 4 << 30), (answer, 64 << 20)):
        path.unlink(missing_ok=True)
        path.touch()
        os.truncate(path, size)
    call("mkfs.ext4", "-q", "-d", folder, disk)
    kernel, initrd = (next((folder / "boot").glob(f"{name}-*")) for name in ("vmlinuz", "initrd.img"))
    drives = [f"-drive=file={path},if=virtio,format=raw,cache=unsafe" for path in (disk, answer)]
    call(
        *[
            "qemu-system-x86_64",
            "-accel",
            "tcg",
            "-cpu",
            "max",
            "-m",
            "1536",
            "-smp",
            "2",
            "-nic",
            "none",
            "-display",
            "none",
            "-no-reboot",
        ],
        *(word for drive in drives for word in drive.split("=", 1)),
        "-kernel",
        kernel,
        "-initrd",
        initrd,
        "-append",
        "root=/dev/vda rw console=ttyS0 quiet",
        "-serial",
        f"file:{WORK / 'console'}",
        timeout=LIMIT,
    )
    shutil.rmtree(out, ignore_errors=True)
    with tarfile.open(answer) as archive:
        archive.extractall(out)  # our own guest made it
    return out


class Night:
    """What came back."""

    def __init__(self, out: Path) -> None:
        self._out = out

    def text(self, name: str) -> str:
        path = self._out / name
        if not path.exists():
            raise SoakError(f"the guest did not get to {name}: see {self._out / 'log'}")
        return path.read_text()

    def journal(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text(f"journal-{name}").splitlines()]

    def show(self) -> dict[str, str]:
        """The properties of the backup's unit after its end."""
        return dict(line.partition("=")[::2] for line in self.text("show").splitlines())

    def code(self, unit: str) -> int:
        """What 'systemctl start --wait' returned."""
        return int(self.text(f"code-{unit}"))


BACKUP = "puller-backup@nightly.service"


def the_timer_started_it_and_it_succeeded(night: Night) -> None:
    shown = night.show()
    assert (shown["Result"], shown["ExecMainStatus"], shown["Type"]) == ("success", "0", "notify"), shown
    assert "puller-backup@nightly.timer" in night.text("timers")


def the_notify_socket_was_heard(night: Night) -> None:
    states = night.text(f"states-{BACKUP}")
    assert "ActiveState=active SubState=running" in states, states
    assert re.search(r"StatusText=vm1: \w+", states), states
    assert int(night.show()["WatchdogUSec"].removesuffix("min")) == 2


def the_journal_has_the_fields(night: Night) -> None:
    entries = night.journal(BACKUP)
    (point,) = [entry for entry in entries if entry.get("PULLER_EVENT") == "point"]
    (record,) = json.loads(night.text("points"))["points"]
    assert (point["PULLER_DOMAIN"], point["PULLER_POINT"]) == ("vm1", record["point"])
    assert (point["PULLER_JOB"], point["SYSLOG_IDENTIFIER"]) == ("nightly", "puller")
    assert int(point["PULLER_READ_BYTES"]) == 24 << 20
    assert any(entry.get("PULLER_EVENT") == "summary" for entry in entries)


def the_point_is_whole_and_nothing_else_is_left(night: Night) -> None:
    (record,) = json.loads(night.text("points"))["points"]
    assert (record["domain"], record["tags"]) == ("vm1", {"site": "lab", "job": "nightly"})
    assert json.loads(night.text("check"))["errors"] == []
    assert night.text("checkpoints").split() == [record["checkpoint"]]
    assert "None" in night.text("job")


def what_thaws_a_guest_outlives_the_run(night: Night) -> None:
    assert "sleep" in night.text("processes").split()


def the_metrics_are_there(night: Night) -> None:
    text = night.text("metrics")
    assert 'puller_backup_success{domain="vm1",job="nightly"} 1.0' in text, text
    assert 'puller_job_exit_code{job="broken"} 16.0' in text, text
    assert 'puller_errors_total{domain="gone",error="NoSuchDomain",job="broken"} 1.0' in text, text


def check_and_prune_ran(night: Night) -> None:
    for step in ("check", "prune"):
        assert night.code(f"puller-{step}@nightly.service") == 0
        events = {entry.get("PULLER_EVENT") for entry in night.journal(f"puller-{step}@nightly.service")}
        assert "summary" in events, events


def a_failure_is_told(night: Night) -> None:
    assert night.code("puller-backup@broken.service") != 0
    entries = night.journal("puller-backup@broken.service")
    (error,) = [
        entry for entry in entries if entry.get("PULLER_EVENT") == "error" and "PULLER_DOMAIN" in entry
    ]
    assert (error["PRIORITY"], error["PULLER_ERROR"], error["PULLER_DOMAIN"]) == ("3", "NoSuchDomain", "gone")
    messages = [entry["MESSAGE"] for entry in night.journal("failure")]
    assert any("puller-backup@broken.service failed" in message for message in messages), messages


def a_stop_is_orderly(night: Night) -> None:
    entries = night.journal("puller-backup@stopped.service")
    assert any(entry.get("PULLER_ERROR") == "Interrupted" for entry in entries), entries
    assert any("Deactivated successfully" in entry["MESSAGE"] for entry in entries), entries


def an_upgrade_ends_running_jobs_in_order_and_starts_them_again(night: Night) -> None:
    before, after = night.text("upgraded").split()
    assert before != after != "0", (before, after)


def a_removed_package_starts_nothing_and_keeps_the_configuration(night: Night) -> None:
    assert night.text("active-removed") == ""
    kept = night.text("kept").split()
    assert kept == [
        "/etc/credstore/puller-password",
        "/etc/puller/puller.toml",
        "/etc/systemd/system/timers.target.wants/puller-backup@nightly.timer",
        "/srv/backup/repository.json",
    ]


CHECKS: tuple[Callable[[Night], None], ...] = (
    the_timer_started_it_and_it_succeeded,
    the_notify_socket_was_heard,
    the_journal_has_the_fields,
    the_point_is_whole_and_nothing_else_is_left,
    what_thaws_a_guest_outlives_the_run,
    the_metrics_are_there,
    check_and_prune_ran,
    a_failure_is_told,
    a_stop_is_orderly,
    an_upgrade_ends_running_jobs_in_order_and_starts_them_again,
    a_removed_package_starts_nothing_and_keeps_the_configuration,
)


def main() -> int:
    if os.geteuid() != 0 or shutil.which("mmdebstrap") is None:
        print(
            "run this as root, with Debian's packages mmdebstrap, e2fsprogs and qemu-system-x86",
            file=sys.stderr,
        )
        return 2
    WORK.mkdir(parents=True, exist_ok=True)
    night = Night(boot(root()))
    failed = 0
    for check in CHECKS:
        try:
            check(night)
        except (AssertionError, SoakError, KeyError, ValueError) as error:
            failed += 1
            print(f"FAILED {check.__name__.replace('_', ' ')}: {error}")
        else:
            print(f"ok     {check.__name__.replace('_', ' ')}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
