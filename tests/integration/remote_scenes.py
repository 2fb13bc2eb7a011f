"""Backups of another host's domains, played between two network namespaces: see tests/lab/two_hosts.py.

``python -m tests.integration.remote_scenes FOLDER SCENE`` prints one JSON document; test_remote.py asserts on
it.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import tarfile
import threading
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import libvirt
import pytest

import puller
from puller.backups import aftermath
from puller.errors import PullerError
from puller.hypervisor.connection import prepare_library
from puller.hypervisor.domain.disks.encryption import encryption_element
from puller.hypervisor.job.frozen import DiskExport
from puller.units import KIB, MIB
from tests.integration.conftest import restored
from tests.integration.remote_stage import DISKS, NAME, Stage, scattered
from tests.lab import luks
from tests.lab.certificates import DAY, NOW, Authority
from tests.lab.daemon import has_job
from tests.lab.hypervisor_host import ADDRESS, IMAGES
from tests.lab.two_hosts import SSH, HypervisorHost


def generations(stage: Stage, **options: Any) -> dict[str, Any]:
    """A full and two incrementals."""
    stage.machine.write("vda", 7, 0, 12 * MIB)
    stage.machine.write("vdb", 9, 2 * MIB, 3 * MIB)
    outcomes = [stage.back_up(**options)]
    for number in range(2):
        scattered(stage, number)
        outcomes.append(stage.back_up(**options))
    return {"outcomes": outcomes}


def alternating(stage: Stage) -> dict[str, Any]:
    """Ten generations of one domain, in turn from here and on its own host."""
    stage.machine.write("vda", 7, 0, 12 * MIB)
    outcomes = []
    for number in range(10):
        scattered(stage, number)
        outcomes.append(stage.back_up_there() if number % 2 else stage.back_up())
    return {"outcomes": outcomes}


def tls_and_ssh(stage: Stage) -> dict[str, Any]:
    """The disks over TLS, all else over ssh."""
    return generations(stage, nbd_tls=str(stage.host.pki))


def tls_alone(stage: Stage) -> dict[str, Any]:
    """Nobody may log in to the other host."""
    return generations(stage, uri=stage.host.tls, nbd_tls=str(stage.host.pki))


def pushed(stage: Stage) -> dict[str, Any]:
    """QEMU writes images on its own host, which are read there."""
    return generations(stage, mode="push")


def shut_off(stage: Stage) -> dict[str, Any]:
    """A point while the domain runs, one while it is shut off, one while a file of its images is written."""
    machine = stage.machine
    machine.write("vda", 7, 0, 12 * MIB)
    outcomes = [stage.back_up()]
    scattered(stage, 1)
    machine.handle.destroy()
    outcomes.append(stage.back_up_shut_off())
    machine.handle.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
    scattered(stage, 2)
    outcomes.append(stage.back_up())
    machine.handle.destroy()
    touch = ["touch", str(machine.image("vda"))]
    outcomes.append(stage.back_up_shut_off(lambda: stage.host.run(*touch)))
    start = machine.handle.createWithFlags
    outcomes.append(stage.back_up_shut_off(lambda: _refused(start, libvirt.VIR_DOMAIN_START_PAUSED)))
    return {"outcomes": outcomes, "servers": stage.host.run("sh", "-c", "pgrep qemu-nbd || true").split()}


def _refused(start: Callable[[int], object], flags: int) -> None:
    try:
        start(flags)
    except libvirt.libvirtError:
        return
    raise RuntimeError("the domain started while its images were read")


def cut_for_ten_seconds(stage: Stage) -> dict[str, Any]:
    """The line is cut while the job is open, and is back before anybody gives it up."""
    return _cut(stage, 10, SSH)


def cut_for_a_minute(stage: Stage) -> dict[str, Any]:
    """The line is back when all connections over it have been given up, and puller still tries."""
    return _cut(stage, 60, SSH)


def tls_cut_for_a_minute(stage: Stage) -> dict[str, Any]:
    """The same over TLS."""
    return _cut(stage, 60, stage.host.tls, nbd_tls=str(stage.host.pki))


def _cut(stage: Stage, seconds: float, uri: str, **options: Any) -> dict[str, Any]:
    """One run whose line is cut for a time, and the next."""
    stage.machine.write("vda", 7, 0, 12 * MIB)
    stage.back_up(uri, **options)
    scattered(stage, 1)

    def cut(exports: Sequence[DiskExport]) -> None:
        stage.host.cut()
        threading.Timer(seconds, stage.host.mend).start()

    during = stage.back_up(uri, cut, **options)
    scattered(stage, 2)
    return {"during": during, "next": stage.back_up(uri, **options)}


def cut_for_good(stage: Stage) -> dict[str, Any]:
    """The line stays away until puller has given up; the next run finds the job open."""
    stage.machine.write("vda", 7, 0, 12 * MIB)
    stage.back_up()
    scattered(stage, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aftermath, "LINE", 0.0)
        patch.setattr(stage, "_left", dict)  # nobody can look
        patch.setattr(stage, "reconnect_if_lost", lambda: None)
        during = stage.back_up(frozen=lambda exports: stage.host.cut())
    stage.host.mend()
    stage.reconnect()
    is_open = has_job(stage.machine.handle)
    scattered(stage, 2)
    return {"during": during, "open": is_open, "next": stage.back_up()}


def diagnosed(stage: Stage) -> dict[str, Any]:
    """What doctor says of the other host, and what forget takes away there, shut off or not."""
    stage.machine.write("vda", 7, 0, MIB)
    stage.back_up()
    findings = puller.doctor(stage.repository, connect=SSH, domains=[NAME])
    by_tls = puller.doctor(stage.repository, connect=stage.host.tls, domains=[NAME])
    running = puller.forget(stage.repository, NAME, connect=SSH)
    stage.back_up()
    stage.machine.handle.destroy()
    off = puller.forget(stage.repository, NAME, connect=SSH)
    closed = stage._outcome(stage.host.tls, lambda exports: None, nbd_tls=str(stage.host.pki))
    image = str(stage.machine.image("vda"))
    return {
        "ssh": {finding.name: finding.status.value for finding in findings},
        "texts": {finding.name: finding.text for finding in findings},
        "tls": {finding.name: finding.status.value for finding in by_tls},
        "forgotten": [len(forgotten.bitmaps) for forgotten in (running, off)],
        "closed": (closed["error"], closed["message"]),
        "bitmaps": "bitmaps" in stage.host.run("qemu-img", "info", image),
    }


def firmware(stage: Stage) -> dict[str, Any]:
    """A domain with UEFI variables and a TPM, running and shut off."""
    stage.machine.handle.destroy()
    root = ET.fromstring(stage.machine.handle.XMLDesc())
    system = root.find("os")
    assert system is not None
    loader = ET.SubElement(system, "loader", readonly="yes", type="pflash")
    loader.text = "/usr/share/OVMF/OVMF_CODE_4M.fd"
    variables = IMAGES / "far-vars.fd"
    ET.SubElement(system, "nvram", template="/usr/share/OVMF/OVMF_VARS_4M.fd").text = str(variables)
    ET.SubElement(ET.SubElement(root, "features"), "acpi")  # without which there is no UEFI
    devices = root.find("devices")
    assert devices is not None
    tpm = ET.SubElement(devices, "tpm", model="tpm-crb")
    ET.SubElement(tpm, "backend", type="emulator", version="2.0")
    stage.machine.define(ET.tostring(root, encoding="unicode"))
    stage.machine.handle.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
    stage.repository = puller.create_repository(str(stage.folder / "sealed"), password="secret")
    running = stage.back_up()
    stage.machine.handle.destroy()
    off = stage.back_up_shut_off()
    point = puller.list_points(stage.repository)[-1]
    restored_ = restored(stage.repository, point, stage.folder / "again")
    stored = hashlib.sha256((restored_ / "nvram.fd").read_bytes()).hexdigest()
    theirs = stage.host.run("sha256sum", str(variables)).split()[0]
    with tarfile.open(restored_ / "tpm.tar") as archive:
        names = archive.getnames()
    return {"running": running, "off": off, "nvram": stored == theirs, "tpm": names}


def encrypted(stage: Stage) -> dict[str, Any]:
    """A disk in LUKS, whose passphrase is a secret of the other libvirt: pulled, pushed, shut off."""
    machine = stage.machine
    machine.handle.destroy()
    made = stage.folder / "luks"
    luks.make_image(made, DISKS[0])
    stage.host.run("cp", str(made), str(machine.image("vda")))
    secret = luks.define_secret(machine.handle.connect())
    root = ET.fromstring(machine.handle.XMLDesc())
    source = root.find("./devices/disk/source")
    assert source is not None
    source.append(encryption_element(secret))
    machine.define(ET.tostring(root, encoding="unicode"))
    machine.handle.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
    stage.encrypted.add("vda")
    machine.write("vda", 7, 0, 4 * MIB)
    outcomes = [stage.back_up()]
    scattered(stage, 1)
    outcomes.append(stage.back_up(mode="push"))
    scattered(stage, 2)
    outcomes.append(stage.back_up())
    machine.handle.destroy()
    outcomes.append(stage.back_up_shut_off())
    left = [item.usageID() for item in machine.handle.connect().listAllSecrets()]
    return {"outcomes": outcomes, "secrets": left}


def full_scratch(stage: Stage) -> dict[str, Any]:
    """The scratch on the other host is too small, and fills up while the job is open."""
    stage.machine.write("vda", 7, 0, 16 * MIB)
    folder = IMAGES / "scratch"
    stage.host.run("mkdir", str(folder))
    stage.host.run("mount", "-t", "tmpfs", "-o", "size=100M", "tmpfs", str(folder))
    small = stage.back_up(scratch_dir=str(folder))
    stage.host.run("mount", "-o", "remount,size=300M", str(folder))

    def fill(exports: Sequence[DiskExport]) -> None:
        stage.host.run("sh", "-c", f"head -c 290M /dev/zero >{folder}/filler")

    filled = stage.back_up(frozen=fill, scratch_dir=str(folder), pace=512 * KIB)
    return {"small": small, "filled": filled}


def locked(stage: Stage) -> dict[str, Any]:
    """Other pullers, here and there, while one backs the domain up."""
    messages: dict[str, str] = {}

    def others(exports: Sequence[DiskExport]) -> None:
        try:
            puller.backup(stage.repository, NAME, connect=SSH)
        except PullerError as error:
            messages["here"] = f"{type(error).__name__}: {error.message}"
        try:
            stage.back_up_there()
        except RuntimeError as error:
            messages["there"] = str(error)

    outcome = stage.back_up(frozen=others)
    return {"messages": messages, "outcome": outcome, "process": os.getpid(), "host": socket.gethostname()}


def frozen_for_another_program(stage: Stage) -> dict[str, Any]:
    """Another program of this host reads the frozen disks of that one."""
    stage.machine.write("vda", 7, 0, MIB)
    truth = stage.truth()
    raw = stage.folder / "copy"
    done = puller.freeze(NAME, f'nbdcopy "$PULLER_URI_vda" {raw}', connect=SSH, disks=["vda"])
    digest = hashlib.sha256(raw.read_bytes()).hexdigest()
    return {"code": done.exit_code, "exact": digest == truth["vda"], **stage._left()}


def swapped(stage: Stage) -> dict[str, Any]:
    """Certificates that are wrong, expired or missing, at either end; each time all else is in order."""
    pki, theirs = stage.host.pki, stage.host.folder / "pki"
    other = Authority("Another CA")

    def attempt(**options: Any) -> dict[str, Any]:
        outcome = stage.back_up(nbd_tls=str(pki), **options)
        stage.host.authority.issue_server(theirs, "kvm1")
        stage.host.authority.issue_client(pki)
        return outcome

    outcomes = {}
    other.issue_server(theirs, "kvm1")
    outcomes["server of another authority"] = attempt()
    stage.host.authority.issue_server(theirs, "kvm2")
    outcomes["server of another name"] = attempt()
    stage.host.authority.issue_server(theirs, "kvm1", NOW - DAY)
    outcomes["expired server"] = attempt()
    (theirs / "server-key.pem").unlink()
    outcomes["server without a key"] = attempt()
    other.issue_client(pki)
    (pki / "ca-cert.pem").write_bytes((theirs / "ca-cert.pem").read_bytes())
    outcomes["client of another authority"] = attempt()
    stage.host.authority.issue_client(pki, NOW - DAY)
    outcomes["expired client"] = attempt()
    (pki / "client-cert.pem").unlink()
    outcomes["client without a certificate"] = attempt()
    outcomes["tls without certificates"] = stage.back_up(uri=stage.host.tls)
    outcomes["in order"] = attempt()
    return outcomes


def ports_in_use(stage: Stage) -> dict[str, Any]:
    """Another program of the other host listens at one of two ports, then there is only that one."""
    listen = (
        "import socket, time; "
        f"server = socket.create_server(('{ADDRESS}', 20000)); print('listens', flush=True); time.sleep(600)"
    )
    with stage.host.start(sys.executable, "-c", listen) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("random.randrange", lambda *_: 0)  # begin with the one that is in use
            pki = str(stage.host.pki)
            outcomes = [stage.back_up(nbd_ports=ports, nbd_tls=pki) for ports in ("20000-20001", "20000")]
        other.kill()
    return {"outcomes": outcomes}


def nightly(stage: Stage) -> dict[str, Any]:
    """A job of the configuration over TLS, two nights: its rules count the points of the other host."""
    tls = f'nbd-tls = "{stage.host.pki}"\nnbd-ports = "20000-20009"'
    configuration = stage.folder / "puller.toml"
    configuration.write_text(
        f'[repositories.main]\nurl = "{stage.folder}/repository"\n'
        f'[jobs.nightly]\nconnect = "{SSH}"\ndomains = ["fa*"]\n{tls}\n'
        'then = ["prune", "check"]\n[jobs.nightly.keep]\nlast = 1\n'
    )
    command = [sys.executable, "-m", "puller.cli", "--config", str(configuration), "run", "nightly", "--json"]
    nights = [subprocess.run(command, capture_output=True, text=True, check=False) for _ in range(2)]
    points = [point.host for point in puller.list_points(stage.repository)]
    return {
        "codes": [night.returncode for night in nights],
        "removed": [json.loads(night.stdout)["prune"]["removed"] for night in nights],
        "hosts": points,
        "said": nights[-1].stderr,
    }


_USER = "keeper"

_ADD_USER = f"""\
cp /etc/passwd /etc/group /etc/shadow "$1"
echo "{_USER}:x:4711:4711::$1:/bin/sh" >>"$1/passwd"
echo "{_USER}:x:4711:" >>"$1/group"
echo "{_USER}:*:20000::::::" >>"$1/shadow"
sed -i "s/^libvirt:.*/&{_USER}/" "$1/group"
for file in passwd group shadow; do mount --bind "$1/$file" "/etc/$file"; done
chown 4711:4711 "$1"
chgrp libvirt /run/libvirt/libvirt-sock
chmod g+rw /run/libvirt/libvirt-sock
"""


def another_user(stage: Stage) -> dict[str, Any]:
    """Who logs in is not root, but of the group that may use libvirt."""
    home = stage.folder / "home"
    home.mkdir()
    for folder in (stage.folder, stage.host.folder):
        folder.chmod(0o755)
    (stage.host.folder / "authorized_keys").chmod(0o644)
    stage.host.run("sh", "-euc", _ADD_USER, "sh", str(home))
    stage.machine.write("vda", 7, 0, 4 * MIB)
    uri = SSH.replace("root@", f"{_USER}@")
    outcomes = {
        "ssh": stage.back_up(uri),
        "push": stage.back_up(uri, mode="push"),
        "session": stage.back_up(uri.replace("/system", "/session")),
        "tls": stage.back_up(uri, nbd_tls=str(stage.host.pki)),
    }
    try:
        puller.freeze(NAME, "true", connect=uri)
    except PullerError as error:
        outcomes["freeze"] = {"error": type(error).__name__, "message": error.message}
    findings = puller.doctor(stage.repository, connect=uri, domains=[NAME])
    outcomes["doctor"] = {item.name: item.status.value for item in findings if item.status.value != "ok"}
    scattered(stage, 1)
    outcomes["tls again"] = stage.back_up(uri, nbd_tls=str(stage.host.pki))
    stage.machine.handle.destroy()
    outcomes["shut off"] = stage._outcome(uri, lambda exports: None)
    return outcomes


def strangers(stage: Stage) -> dict[str, Any]:
    """Who connects to QEMU's port while the disks are frozen, beside puller."""
    foreign = stage.folder / "foreign"
    Authority("Another CA").issue_client(foreign)
    (foreign / "ca-cert.pem").write_bytes((stage.host.pki / "ca-cert.pem").read_bytes())
    answers: dict[str, str] = {}

    def knock(exports: Sequence[DiskExport]) -> None:
        place = exports[0].uri.partition("?")[0].removeprefix("nbds")
        answers["in order"] = _info(f"nbds{place}?tls-certificates={stage.host.pki}")
        answers["clear text"] = _info(f"nbd{place}")
        answers["no certificate"] = _info(f"nbds{place}")
        answers["foreign certificate"] = _info(f"nbds{place}?tls-certificates={foreign}")

    outcome = stage.back_up(frozen=knock, nbd_tls=str(stage.host.pki), nbd_ports="20000-20001")
    clear = stage.back_up(insecure_nbd=True)
    return {"answers": answers, "outcome": outcome, "clear": clear}


def _info(uri: str) -> str:
    """What an independent client says of an export: its size, or an error."""
    done = subprocess.run(["nbdinfo", "--size", uri], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else "refused"


SCENES: dict[str, Callable[[Stage], dict[str, Any]]] = {
    "alternating": alternating,
    "tls and ssh": tls_and_ssh,
    "tls alone": tls_alone,
    "swapped": swapped,
    "push": pushed,
    "shut off": shut_off,
    "cut for 10 s": cut_for_ten_seconds,
    "cut for 60 s": cut_for_a_minute,
    "tls cut for 60 s": tls_cut_for_a_minute,
    "cut for good": cut_for_good,
    "encrypted": encrypted,
    "full scratch": full_scratch,
    "locked": locked,
    "freeze": frozen_for_another_program,
    "diagnosed": diagnosed,
    "firmware": firmware,
    "another user": another_user,
    "strangers": strangers,
    "nightly": nightly,
    "ports": ports_in_use,
}


def main() -> int:
    """Play one scene."""
    folder, scene = Path(sys.argv[1]), sys.argv[2]
    os.environ["PULLER_CACHE_DIR"] = str(folder / "cache")
    prepare_library()
    with HypervisorHost(folder) as host, closing(libvirt.open(SSH)) as connection:
        json.dump(SCENES[scene](Stage(folder, host, connection)), sys.stdout, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
