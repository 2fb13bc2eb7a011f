"""Restore drills of machines that start from their own disk, or do not because it was destroyed."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import libvirt
import pytest

import puller
from puller.hypervisor.connection import Host, open_embedded
from tests.cli.conftest import CommandLine
from tests.lab import appliance, bootable
from tests.lab.daemon import in_own_namespace, is_root

PASSWORD = "of the lab"
READY = f"console:{bootable.READY}"
LONG = "180s"
"""For what comes sooner, if the machine that tests is not very slow."""

SHORT = "40s"
"""For what never comes."""


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A short path, unlike pytest's own: sockets are made in it, whose paths have at most 107 bytes."""
    with TemporaryDirectory(prefix="drills-") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("repository") / "r")
    puller.create_repository(path, password=PASSWORD)
    return path


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("disk") / "sound.raw"
    bootable.make_disk(path)
    return path


Take = Callable[..., puller.Point]


@pytest.fixture
def take(url: str, disk: Path, libvirt_uri: str, tmp_path: Path) -> Iterator[Take]:
    """Backs up a machine with a copy of the disk, perhaps a damaged one. The machine never runs."""
    connection = open_embedded(libvirt_uri)
    made: list[Any] = []

    def backed_up(name: str, damage: bootable.Damage = bootable.sound, **choices: bool) -> puller.Point:
        image = tmp_path / f"{name}.raw"
        image.write_bytes(disk.read_bytes())
        damage(image)
        made.append(connection.defineXML(bootable.domain_xml(name, image, **choices)))
        return puller.backup(puller.open_repository(url, password=PASSWORD), name, connect=libvirt_uri)

    yield backed_up
    for handle in made:
        with suppress(libvirt.libvirtError):
            handle.undefine()


@pytest.fixture
def cli(
    url: str, libvirt_uri: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> CommandLine:
    for name, value in environment(url, libvirt_uri).items():
        monkeypatch.setenv(name, value)
    return CommandLine(capsys)


def environment(url: str, uri: str) -> dict[str, str]:
    return {
        "PULLER_CONFIG": "/dev/null",
        "PULLER_REPOSITORY": url,
        "PULLER_PASSWORD": PASSWORD,
        "LIBVIRT_DEFAULT_URI": uri,
    }


def left_over(directory: Path, uri: str | None = None) -> list[str]:
    """What drills have left on this host: files, machines, and processes that know the directory."""
    found = [str(path) for path in directory.rglob("*")] if directory.exists() else []
    if uri is not None:
        found += [handle.name() for handle in open_embedded(uri).listAllDomains() if "drill" in handle.name()]
        root = uri.partition("root=")[2]
        for pattern in ("lib/swtpm/*", "lib/qemu/nvram/*", "log/qemu/drill-*"):
            found += [str(path) for path in Path(root).glob(pattern)]
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if str(directory).encode() in process.read_bytes() and process.parent.name != str(os.getpid()):
                found.append(process.read_text().replace("\0", " "))
    return found


def stored(url: str) -> list[str]:
    return [info.key for info in puller.open_repository(url, password=PASSWORD).proofs.listed()]


def test_a_machine_that_starts_is_proven_and_nothing_is_left(
    take: Take, cli: CommandLine, url: str, tmp_path: Path, libvirt_uri: str
) -> None:
    point = take("starts")
    before = {info.key for info in puller.open_repository(url, password=PASSWORD).objects() if info.size}
    drills = tmp_path / "drills"
    options = ("--evidence", READY, "--timeout", LONG, "--directory", str(drills))
    answer = cli("prove", "starts", *options, "--json")
    assert answer.code == 0
    (proof,) = answer.document["proofs"]
    assert answer.document["failed"] == []
    assert (proof["point"], proof["domain"], proof["verdict"]) == (point.point, "starts", "proven")
    assert (proof["evidence"], proof["reason"]) == (READY, "")
    assert 0 < proof["seconds"] < 180
    assert bootable.READY in proof["log"]
    assert base64.b64decode(proof["screenshot"]).startswith(b"\x89PNG")
    assert left_over(drills, libvirt_uri) == []
    after = {info.key for info in puller.open_repository(url, password=PASSWORD).objects() if info.size}
    assert [key.partition("/")[0] for key in after - before] == ["proofs"]
    assert before <= after

    picture = tmp_path / "screen.png"
    shown = cli("show", "starts@latest", "--screenshot", str(picture), "--json").document["proof"]
    assert shown == {name: proof[name] for name in shown}
    assert picture.read_bytes() == base64.b64decode(proof["screenshot"])
    assert picture.stat().st_mode & 0o777 == 0o600
    assert cli("show", "starts@latest", "--screenshot", str(picture)).code == 2, "it replaces nothing"
    assert f"proven: {READY} after " in cli("show", "starts@latest").out
    (listed,) = cli("points", "starts", "--json").document["points"]
    assert listed["proof"] == {name: shown[name] for name in listed["proof"]}
    assert "DRILL" in cli("points", "starts").out
    costs = {cost["domain"]: cost for cost in cli("stats", "--json").document["costs"]}
    assert (costs["starts"]["last_verdict"], costs["starts"]["last_drill"]) == ("proven", proof["time"])


def test_what_was_destroyed_before_the_backup_is_found_out(
    take: Take, cli: CommandLine, tmp_path: Path, libvirt_uri: str
) -> None:
    broken = (bootable.without_boot_loader, bootable.without_kernel, bootable.without_root)
    names = [damage.__name__ for damage in broken]
    for name, damage in zip(names, broken, strict=True):
        take(name, damage)
    drills = tmp_path / "drills"
    options = ("--evidence", READY, "--timeout", SHORT, "--directory", str(drills), "--parallel", "3")
    answer = cli("prove", *names, *options, "--json")
    assert answer.error["name"] == "DrillFailed"
    assert answer.code == 1
    found = {proof["domain"]: proof for proof in answer.document["proofs"]}
    assert {proof["verdict"] for proof in found.values()} == {"failed"}
    assert all(proof["seconds"] is None and proof["screenshot"] for proof in found.values())
    loader, kernel, root = (found[name] for name in names)
    assert (loader["reason"], loader["log"]) == ("no evidence within 40 s", ""), "no boot loader has spoken"
    assert "SYSLINUX" in kernel["log"] and "Linux version" not in kernel["log"]
    assert kernel["reason"] == "no evidence within 40 s"
    assert "SYSLINUX" in root["log"] and "Kernel panic" in root["log"]
    assert root["reason"] == "the guest's kernel has panicked"
    assert left_over(drills, libvirt_uri) == []


def test_each_kind_of_evidence_by_the_configuration(
    take: Take, cli: CommandLine, tmp_path: Path, libvirt_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one that waits for a port at which nobody listens, so that the exit code is that of a part."""
    program, called = tmp_path / "evidence", tmp_path / "called"
    program.write_text(f'#!/bin/sh\necho "$1 $PULLER_DOMAIN" >>{called}\ntest $(wc -l <{called}) -ge 2\n')
    program.chmod(0o755)
    for name in ("of-agent", "of-tcp", "of-command", "of-nobody"):
        take(name, agent=name == "of-agent")
    configuration = tmp_path / "puller.toml"
    configuration.write_text(
        f"""
[prove]
timeout = "{LONG}"
parallel = 4
directory = "{tmp_path / "drills"}"
[prove.evidence]
of-tcp = "tcp:{bootable.PORT}"
"*-command" = "command:{program}"
of-nobody = "tcp:81"
"""
    )
    monkeypatch.setenv("PULLER_CONFIG", str(configuration))
    answer = cli("prove", "of-agent", "of-tcp", "of-command", "--json")
    assert answer.code == 0, answer.err
    found = {proof["domain"]: (proof["verdict"], proof["evidence"]) for proof in answer.document["proofs"]}
    assert found == {
        "of-agent": ("proven", "agent"),
        "of-tcp": ("proven", f"tcp:{bootable.PORT}"),
        "of-command": ("proven", f"command:{program}"),
    }
    words = called.read_text().splitlines()
    assert all(line.startswith("drill-of-command-") and line.endswith(" of-command") for line in words)
    both = cli("prove", "of-nobody", "of-command", "--timeout", "20s", "--json")
    assert (both.code, both.error["name"]) == (3, "PartialFailure")
    assert "1 of 2 drills failed: of-nobody" in both.error["message"]
    assert left_over(tmp_path / "drills", libvirt_uri) == []


def drill_process(url: str, root: Path, directory: Path, *words: str) -> subprocess.Popen[bytes]:
    """A drill of another process, with an embedded libvirt of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "puller.cli", "prove", *words, "--directory", str(directory)],
        env=os.environ | environment(url, f"qemu:///embed?root={root}"),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def await_console(process: subprocess.Popen[bytes], directory: Path) -> None:
    """Wait until the machine of the drill runs."""
    deadline = time.monotonic() + 120
    while not any(path.stat().st_size for path in directory.glob("drill-*/console0.log")):
        assert process.poll() is None, process.communicate()[1].decode()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def root(tmp_path_factory: pytest.TempPathFactory, embedded_libvirt: Any) -> Iterator[Path]:
    """The root of another embedded libvirt, configured like that of the tests."""
    import shutil
    import tempfile

    made = Path(tempfile.mkdtemp(prefix="puller-"))
    (made / "etc").mkdir()
    shutil.copy(embedded_libvirt.root / "etc" / "qemu.conf", made / "etc")
    yield made
    shutil.rmtree(made)


def test_a_drill_that_lives_is_left_alone_and_a_signal_stops_it(
    take: Take, cli: CommandLine, url: str, root: Path, tmp_path: Path, libvirt_uri: str
) -> None:
    take("stopped")
    before, drills = stored(url), tmp_path / "drills"
    process = drill_process(url, root, drills, "stopped", "--evidence", "console:never", "--timeout", LONG)
    await_console(process, drills)
    folder = next(drills.glob("drill-*"))
    beside = cli("prove", "stopped", "--directory", str(drills), "--evidence", READY, "--timeout", "1s")
    assert beside.code == 1, "a second is not enough"
    assert folder.exists()
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told.decode()
    assert left_over(drills, libvirt_uri) == []
    assert len(stored(url)) == len(before) + 1, "of the one that was held"


def test_what_a_killed_drill_leaves_is_removed_by_the_next(
    take: Take, url: str, root: Path, tmp_path: Path
) -> None:
    """Under the embedded driver nobody ends the machine when its puller dies."""
    take("killed")
    drills = tmp_path / "drills"
    process = drill_process(url, root, drills, "killed", "--evidence", "console:never", "--timeout", LONG)
    await_console(process, drills)
    process.kill()
    process.communicate()
    assert left_over(drills) != []
    ended = drill_process(url, root, drills, "killed", "--evidence", READY, "--timeout", LONG)
    _, told = ended.communicate(timeout=240)
    assert ended.returncode == 0, told.decode()
    assert f"removed what killed drills had left in {drills}: 1" in told.decode()
    assert left_over(drills) == []


def test_what_cannot_be_drilled_is_an_error_and_no_verdict(
    take: Take, cli: CommandLine, url: str, tmp_path: Path, libvirt_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    take("mute", serial=False)
    before, drills = stored(url), tmp_path / "drills"
    mute = cli("prove", "mute", "--directory", str(drills), "--json")
    assert mute.error["name"] == "UsageError"
    assert "neither a channel for the guest agent nor a serial console" in mute.error["message"]
    assert [failed["domain"] for failed in mute.document["failed"]] == ["mute"]
    monkeypatch.setattr("puller.recovery.proving.drill._available_memory", lambda: 600 << 20)
    small = cli("prove", "mute", "--evidence", READY, "--directory", str(drills), "--json")
    assert small.error["name"] == "CannotDrill"
    assert "it wants 128 MiB of memory" in small.error["message"]
    missing = cli("prove", "mute", "--evidence", "command:/nowhere", "--json")
    assert (missing.code, missing.error["name"]) == (2, "UsageError")
    assert cli("prove", "nobody", "--json").error["code"] == 16
    assert cli("prove", "mute", "--evidence", "smoke", "--json").code == 2
    assert cli("prove", "mute", "--timeout", "0s", "--json").code == 2
    assert stored(url) == before
    assert left_over(drills, libvirt_uri) == []


def test_what_cannot_be_started_here_is_proven_by_its_file_systems(
    take: Take, cli: CommandLine, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a host without KVM, say. The domain wants no emulation, and nobody allows it."""
    take("elsewhere")
    take("elsewhere-destroyed", bootable.without_root)
    monkeypatch.setattr(Host, "why_it_cannot_run", lambda *_: "KVM is not supported on this host")
    for name, value in appliance.environment().items():
        monkeypatch.setenv(name, value)
    drills = tmp_path / "drills"
    words = ("prove", "elsewhere", "elsewhere-destroyed", "--directory", str(drills), "--parallel", "2")
    answer = cli(*words, "--json")
    assert answer.error["name"] == "PartialFailure", answer.out
    found = {proof["domain"]: proof for proof in answer.document["proofs"]}
    sound, destroyed = found["elsewhere"], found["elsewhere-destroyed"]
    assert (sound["verdict"], sound["evidence"]) == ("partial", "filesystems")
    assert "KVM is not supported" in sound["reason"]
    assert "/dev/vda1 (vfat): sound" in sound["log"]
    assert "/dev/vda2 (ext4): sound" in sound["log"]
    assert (sound["seconds"], sound["screenshot"]) == (None, None)
    assert destroyed["verdict"] == "failed"
    assert destroyed["reason"] == "libguestfs finds no operating system that it knows"
    assert "/dev/vda2 (unknown): not checked" in destroyed["log"]
    assert left_over(drills) == []
    listed = cli("points", "elsewhere").out
    assert "partial " in listed


def test_without_libguestfs_a_machine_that_cannot_be_started_is_no_verdict(
    take: Take, cli: CommandLine, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take("nowhere")
    before = stored(url)
    monkeypatch.setattr(Host, "why_it_cannot_run", lambda *_: "KVM is not supported on this host")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    answer = cli("prove", "nowhere", "--directory", str(tmp_path / "drills"), "--json")
    assert answer.error["name"] == "CannotDrill"
    assert "this host cannot run nowhere: KVM is not supported on this host" in answer.error["message"]
    assert "libguestfs is not installed" in answer.error["message"]
    assert "Install libguestfs" in answer.error["advice"]
    assert stored(url) == before


def test_a_machine_with_uefi_and_without_a_screen(
    take: Take, cli: CommandLine, url: str, tmp_path: Path, libvirt_uri: str
) -> None:
    """It never ran, so that its variables come from the template. Its disk has no boot loader for UEFI."""
    take("uefi", uefi=True, screen=False)
    drills = tmp_path / "drills"
    words = ("prove", "uefi", "--evidence", "console:BdsDxe: ", "--timeout", LONG, "--directory", str(drills))
    answer = cli(*words, "--json")
    assert answer.code == 0, answer.out
    (proof,) = answer.document["proofs"]
    assert (proof["verdict"], proof["screenshot"]) == ("proven", None)
    assert left_over(drills, libvirt_uri) == []


def test_a_damaged_point_fails_its_drill(
    take: Take, cli: CommandLine, url: str, tmp_path: Path, libvirt_uri: str
) -> None:
    before = set(Path(url).glob("packs/*/*"))
    take("damaged", lambda path: path.write_bytes(os.urandom(bootable.SIZE)))
    for pack in set(Path(url).glob("packs/*/*")) - before:
        pack.chmod(0o600)
        with pack.open("r+b") as file:
            file.write(bytes(pack.stat().st_size // 2))
    drills = tmp_path / "drills"
    answer = cli(
        *("prove", "damaged", "--evidence", READY, "--timeout", "10s", "--directory", str(drills), "--json")
    )
    assert answer.code == 1
    (proof,) = answer.document["proofs"]
    assert proof["verdict"] == "failed"
    assert "damage" in proof["reason"]
    assert left_over(drills, libvirt_uri) == []


@pytest.mark.skipif(not is_root(), reason="a libvirtd of one's own needs root")
def test_drills_that_are_killed_at_random_moments_leave_nothing(root: Path) -> None:
    """On a libvirtd that is its own process, which ends the machines of dead pullers."""
    command = in_own_namespace("tests.integration.drill_scenes", [str(root / "scene"), "3", "1"])
    played = subprocess.run(command, capture_output=True, text=True, check=False)
    assert played.returncode == 0, played.stderr[-3000:]
    endings = [json.loads(line)["ending"] for line in played.stdout.splitlines()]
    assert endings == ["killed", "killed", "held"]
