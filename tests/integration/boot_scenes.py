"""Machines booted from a bucket on a libvirtd of their own, and what befalls them.

``python -m tests.integration.boot_scenes FOLDER`` prints one JSON document; test_booting.py asserts on it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import libvirt
import numpy as np

import puller
from puller.hypervisor.connection import prepare_library
from puller.repository.format.packname import PackKind
from puller.repository.format.pages import ZERO
from puller.repository.reading.damage import read_pages
from tests.integration.disaster_scene import NVRAM, SWTPM, domain_xml, make_images
from tests.lab import booted
from tests.lab.daemon import URI, PrivateLibvirt
from tests.lab.seaweed import Seaweed

DOMAIN = "web1"
MACHINE = "web1-boot"
PATIENCE = 120.0
SLOW = "128K"
"""Everything that happens to the machine then happens during the pull: the half that the guest leaves alone
takes 256 s."""
STALLED = 15.0
"""Seconds without progress that mean a stop: QEMU pulls half a MiB at a time, which takes 4 s when slow."""


class Stage:
    """The store, the daemon, and one point of a machine that was shut off."""

    def __init__(self, folder: Path, daemon: PrivateLibvirt, seaweed: Seaweed) -> None:
        self.folder = folder
        self.daemon = daemon
        self.seaweed = seaweed
        self.home = folder / "machine"
        self.home.mkdir()
        self.state = folder / "state"
        os.environ["PULLER_STATE_DIR"] = str(self.state)
        os.environ["PULLER_CACHE_DIR"] = str(folder / "cache")
        os.environ["PULLER_PASSWORD"] = "recovery"
        os.environ["PULLER_REPOSITORY"] = "s3://recovery/kvm"
        os.environ.update(seaweed.variables())
        seaweed.make_bucket("recovery")
        xml = booted.make_machine(self.home, DOMAIN)
        with closing(libvirt.open(URI)) as connection:
            connection.defineXML(xml)
        self.answer("init")
        self.answer("backup", DOMAIN)
        self.original = self.home / "vda.raw"

    def start(self, *words: str) -> subprocess.Popen[str]:
        """A command that runs on; what it says goes to its pipes."""
        return subprocess.Popen(command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def answer(self, *words: str) -> dict[str, Any]:
        """The answer of a command, with its exit code."""
        return ended(self.start(*words))

    def boot(self, *words: str) -> dict[str, Any]:
        return self.answer("boot", f"{DOMAIN}@latest", *words)

    def must_boot(self, *words: str) -> dict[str, Any]:
        """The answer of a boot that must succeed."""
        answer = self.boot(*words)
        assert answer["code"] == 0, answer
        return answer

    def left(self) -> list[str]:
        """What there is of booted machines on the host, and what protects their point."""
        known = {DOMAIN, "uefi"}
        with closing(libvirt.open(URI)) as connection:
            found = [domain.name() for domain in connection.listAllDomains() if domain.name() not in known]
        found += [line for line in booted.processes(str(self.state)).values() if "boot_scenes" not in line]
        found += [str(path) for path in (self.state / "booted").glob("*")]
        found += [str(path) for path in Path("/run/puller/booted").glob("*")]
        listed = self.answer("points")["points"]
        notes = [point["keep"]["note"] for point in listed if point.get("keep")]
        # A server that was killed has left a keep that ends by itself.
        return found + [note for note in notes if not note.startswith("served by")]

    def domain(self, connection: Any) -> Any:
        return connection.lookupByName(MACHINE)

    def terminal(self) -> booted.Terminal:
        """Of the machine, as soon as it runs."""
        with closing(libvirt.open(URI)) as connection:
            wait_for(lambda: has_terminal(connection))
            return booted.terminal_of(self.domain(connection))

    def plain(self, overlay: str) -> Path:
        """The content of an image as a raw file."""
        path = self.folder / "plain.raw"
        subprocess.run(["qemu-img", "convert", "-U", "-f", "qcow2", "-O", "raw", overlay, path], check=True)
        return path


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "puller.cli", *words, "--json"]


def ended(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = process.communicate(timeout=PATIENCE)
    answer = json.loads(out) if out else {}
    return {**answer, "code": process.returncode, "stderr": err}


def active(connection: Any, name: str) -> bool:
    with suppress(libvirt.libvirtError):
        return bool(connection.lookupByName(name).isActive())
    return False


def has_terminal(connection: Any) -> bool:
    with suppress(libvirt.libvirtError):
        return "tty=" in str(connection.lookupByName(MACHINE).XMLDesc(0))
    return False


def wait_for(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not reached():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def pulled() -> int:
    """Bytes that QEMU has pulled of vda."""
    with closing(libvirt.open(URI)) as connection:
        return int(connection.lookupByName(MACHINE).blockJobInfo("vda", 0).get("cur", -1))


def instant_recovery(stage: Stage) -> dict[str, Any]:
    """A guest reads and writes all the while; puller, nbdkit, libvirtd and the store are killed in turn."""
    keeping = stage.start("boot", f"{DOMAIN}@latest", "--keep", "--limit", SLOW)
    terminal = stage.terminal()
    terminal.wait_turns(3)
    record = json.loads((stage.state / "booted" / MACHINE / "boot.json").read_bytes())

    keeping.kill()
    killed = ended(keeping)["code"]
    terminal.wait_turns(terminal.turns() + 3)
    state = stage.answer("boot", "--list")["booted"]
    slow = stage.start("boot", "--resume", MACHINE, "--limit", SLOW)

    (nbdkit,) = booted.nbdkit_of(record["socket"])
    os.kill(nbdkit, signal.SIGKILL)
    wait_for(lambda: booted.nbdkit_of(record["socket"]) not in ([], [nbdkit]))
    terminal.wait_turns(terminal.turns() + 3)

    stage.daemon.kill()
    terminal.wait_turns(terminal.turns() + 3)
    stage.daemon.start()
    terminal.wait_turns(terminal.turns() + 3)

    stage.seaweed.stop()
    (nbdkit,) = booted.nbdkit_of(record["socket"])
    os.kill(nbdkit, signal.SIGKILL)  # with all that it has in memory
    stalled = wait_until_stalled()
    stage.seaweed.restart()
    wait_for(lambda: pulled() != stalled)
    in_mid_pull = 0 < stalled < booted.BLOCKS * booted.MIB
    terminal.wait_turns(terminal.turns() + 3)

    slow.send_signal(signal.SIGTERM)
    stopped = ended(slow)
    outcome = stage.answer("boot", "--resume", MACHINE)
    noted_late = resume_after_the_pull(stage)
    assert outcome["code"] == 0, (outcome, (stage.state / "booted" / MACHINE / "server.log").read_text())
    terminal.wait_turns(terminal.turns() + 3)
    with closing(libvirt.open(URI)) as connection:
        domain = stage.domain(connection)
        domain.suspend()
        xml = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
        facts = json.loads(
            subprocess.run(
                ["qemu-img", "info", "-U", "--output=json", outcome["overlays"]["vda"]],
                check=True,
                capture_output=True,
            ).stdout
        )
        wrong_writes = terminal.wrong_writes(stage.plain(outcome["overlays"]["vda"]))
        backups = alone_backups(stage, domain)
        domain.destroy()
        domain.create()  # without any server
        again = bool(domain.isActive())
        refused = stage.answer("boot", "--discard", MACHINE)
        domain.destroy()
        domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA)
    left = [path for path in stage.left() if path != str(stage.state / "booted" / MACHINE)]
    shutil.rmtree(stage.state / "booted" / MACHINE)
    return {
        "killed": killed,
        "stopped": stopped,
        "state": [(one["state"], one["active"], one["served"]) for one in state],
        "in_mid_pull": in_mid_pull,
        "outcome": outcome,
        "noted_late": noted_late,
        "turns": terminal.turns(),
        "wrong_reads": terminal.wrong_reads(stage.original),
        "wrong_writes": wrong_writes,
        "errors": [line for line in terminal.text().splitlines() if "error" in line.lower()],
        "behind": facts.get("backing-filename"),
        "nbd_in_xml": "nbd" in xml,
        "again": again,
        "refused": refused,
        "backups": backups,
        "left": left,
    }


def lost_memory(stage: Stage) -> dict[str, Any]:
    """QEMU is killed after it has pulled: once before puller knows that, and once after it has said so.

    The guest never touches vdb, so nobody but puller flushes what QEMU holds of it.
    """
    stage.must_boot()
    terminal = stage.terminal()
    terminal.wait_turns(3)
    with closing(libvirt.open(URI)) as connection:
        domain = stage.domain(connection)
        domain.blockPull("vdb", 0, 0)
        wait_for(lambda: not domain.blockJobInfo("vdb", 0))
        kill_qemu(domain)
    path = stage.state / "booted" / MACHINE / "boot.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"state": "pulling"}))
    outcome = stage.answer("boot", "--resume", MACHINE)
    with closing(libvirt.open(URI)) as connection:
        kill_qemu(stage.domain(connection))
        stage.domain(connection).undefine()
    untouched = stage.plain(outcome["overlays"]["vda"]).read_bytes()[: booted.BLOCKS * booted.MIB // 2]
    found = {
        "outcome": outcome,
        "vda": untouched == stage.original.read_bytes()[: len(untouched)],
        "vdb": stage.plain(outcome["overlays"]["vdb"]).read_bytes() == (stage.home / "vdb.raw").read_bytes(),
    }
    advice = stage.boot()["error"]["advice"]
    shutil.rmtree(stage.state / "booted" / MACHINE)
    return {**found, "advice": advice, "left": stage.left()}


def kill_qemu(domain: Any) -> None:
    """As the kernel does where memory is short."""
    (process,) = [
        number
        for number, line in booted.processes(f"guest={domain.name()},").items()
        if line.split()[0].rpartition("/")[2].startswith("qemu-system")
    ]
    os.kill(process, signal.SIGKILL)
    wait_for(lambda: not domain.isActive())


def resume_after_the_pull(stage: Stage) -> dict[str, Any]:
    """Resume a machine that was pulled, as if puller had been killed before it noted that.

    The point cannot be found either: its protection had ended.
    """
    path = stage.state / "booted" / MACHINE / "boot.json"
    noted = json.loads(path.read_bytes())
    path.write_text(json.dumps(noted | {"state": "pulling", "point": "20200101T000000Z-00000000"}))
    answer = stage.answer("boot", "--resume", MACHINE)
    path.write_text(json.dumps(noted))
    return answer


def wait_until_stalled() -> int:
    """Wait until QEMU pulls nothing any more, and return what it has pulled."""
    at, since = pulled(), time.monotonic()
    deadline = since + PATIENCE
    while time.monotonic() - since < STALLED:
        assert time.monotonic() < deadline
        time.sleep(0.2)
        if (now := pulled()) != at:
            at, since = now, time.monotonic()
    return at


def alone_backups(stage: Stage, domain: Any) -> list[str]:
    """The kinds of two points of the machine that stands alone."""
    domain.resume()
    return [stage.answer("backup", MACHINE)["points"][0]["kind"] for _ in range(2)]


def running_machine(stage: Stage) -> dict[str, Any]:
    """Booted without --keep: backed up, then the host loses power, and it is put together again."""
    began = stage.must_boot("--memory", "160", "--storage", str(stage.folder / "elsewhere"))
    terminal = stage.terminal()
    terminal.wait_turns(5)
    protected = [note for note in stage.left() if note.startswith("booted as")]
    backups = [stage.answer("backup", MACHINE)["points"][0]["kind"] for _ in range(2)]
    with closing(libvirt.open(URI)) as connection:
        memory = stage.domain(connection).info()[1]
    exact = backup_is_exact(stage, terminal, began)

    lose_power(stage)
    off = stage.answer("boot", "--list")["booted"]
    resumed = stage.answer("boot", "--resume", MACHINE)
    after = stage.terminal()
    after.wait_turns(3)
    with closing(libvirt.open(URI)) as connection:
        stage.domain(connection).suspend()
    wrong = after.wrong_reads(stage.original)
    discarded = stage.answer("boot", "--discard", MACHINE)
    return {
        "began": began,
        "memory": memory,
        "protected": protected,
        "backups": backups,
        "exact": exact,
        "off": [(one["state"], one["active"], one["served"]) for one in off],
        "resumed": resumed,
        "wrong_reads": wrong,
        "discarded": discarded,
        "left": [*stage.left(), *map(str, (stage.folder / "elsewhere").glob("*"))],
    }


def backup_is_exact(stage: Stage, terminal: booted.Terminal, began: dict[str, Any]) -> dict[str, Any]:
    """Compare a point of the stopped machine with its overlay and what is behind that."""
    with closing(libvirt.open(URI)) as connection:
        stage.domain(connection).suspend()
    point = stage.answer("backup", MACHINE, "--quiesce", "off")["points"][0]["point"]
    target = stage.folder / "restored"
    stage.answer("restore", point, "--output", str(target), "--format", "raw")
    plain = stage.plain(began["overlays"]["vda"])
    return {
        "wrong_writes": terminal.wrong_writes(plain),
        "same": plain.read_bytes() == (target / "vda.raw").read_bytes(),
    }


def strange_host(stage: Stage) -> dict[str, Any]:
    """A machine with much around it that this host lacks, or that it must not share with its original."""
    own = "<qemu:commandline><qemu:arg value='-nic'/><qemu:arg value='user'/></qemu:commandline></domain>"
    around = """<disk type='file' device='cdrom'><source file='/nowhere/install.iso'/><target dev='sda'/>
        <readonly/></disk><interface type='bridge'><source bridge='br-nowhere'/></interface>
        <interface type='network'><source network='nowhere'/></interface></devices>"""
    (stage.folder / "strange").mkdir()
    xml = booted.make_machine(stage.folder / "strange", "strange")
    xml = xml.replace("</devices>", around).replace("</domain>", own)
    namespace = "xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'"
    with closing(libvirt.open(URI)) as connection:
        connection.defineXML(xml.replace("<domain ", f"<domain {namespace} ", 1))
    stage.answer("backup", "strange")
    began = stage.answer("boot", "strange@latest", "--name", MACHINE)
    with closing(libvirt.open(URI)) as connection:
        found = {
            "began": began,
            "runs": active(connection, MACHINE),
            "links": stage.domain(connection).XMLDesc(0).count("<link state='down'/>"),
            "arguments": [line for line in booted.processes(f"guest={MACHINE}").values() if "-nic" in line],
        }
    stage.answer("boot", "--discard", MACHINE)
    with closing(libvirt.open(URI)) as connection:
        connection.lookupByName("strange").undefine()
    return {**found, "left": stage.left()}


def full_storage(stage: Stage) -> dict[str, Any]:
    """The storage is too small for a pull, which comes to its end when there is room."""
    small = stage.folder / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40M,mode=0711", "tmpfs", small], check=True)
    began = stage.boot("--keep", "--limit", "4M", "--storage", str(small))
    terminal = stage.terminal()
    subprocess.run(["mount", "-o", "remount,size=400M", small], check=True)
    resumed = stage.answer("boot", "--resume", MACHINE)
    terminal.wait_turns(2)
    with closing(libvirt.open(URI)) as connection:
        domain = stage.domain(connection)
        domain.suspend()
        wrong_writes = terminal.wrong_writes(stage.plain(began["overlays"]["vda"]))
        domain.destroy()
        domain.undefine()
    (stage.state / "booted" / MACHINE).unlink()
    return {
        "began": began,
        "resumed": resumed["state"],
        "wrong_reads": terminal.wrong_reads(stage.original),
        "wrong_writes": wrong_writes,
    }


def lose_power(stage: Stage) -> None:
    """All processes of the machine end at once, and what was in /run is gone."""
    with closing(libvirt.open(URI)) as connection:
        uuid = stage.domain(connection).UUIDString()
    for name in (f"puller-boot-{uuid}", "serve_booted", f"guest={MACHINE}", "nbd.sock"):
        for number in booted.processes(name):
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
    with closing(libvirt.open(URI)) as connection:
        wait_for(lambda: not active(connection, MACHINE))
    shutil.rmtree("/run/puller/booted", ignore_errors=True)


def failures(stage: Stage) -> dict[str, Any]:
    """Boots that are refused, fail or are stopped leave nothing."""
    taken = stage.boot("--name", DOMAIN)
    network = stage.boot("--network", "nowhere")
    long = stage.boot("--name", "x" * 100)
    stopped = stage.start("boot", f"{DOMAIN}@latest")
    wait_for(lambda: bool(booted.processes("serve_booted")))
    stopped.send_signal(signal.SIGTERM)
    code = ended(stopped)["code"]
    unknown = [stage.answer("boot", way, "nobody") for way in ("--resume", "--discard")]
    return {
        "taken": taken,
        "long": long,
        "network": network,
        "stopped": code,
        "unknown": unknown,
        "left": stage.left(),
    }


def killed_boot(stage: Stage) -> dict[str, Any]:
    """puller is killed before the guest runs: what it made is listed, and can be removed."""
    process = stage.start("boot", f"{DOMAIN}@latest")
    wait_for(lambda: bool(booted.processes("serve_booted")))
    process.kill()
    process.communicate()
    listed = stage.answer("boot", "--list")["booted"]
    resumed = stage.answer("boot", "--resume", MACHINE)
    discarded = stage.answer("boot", "--discard", MACHINE)
    return {
        "listed": [(one["domain"], one["state"]) for one in listed],
        "resumed": resumed,
        "discarded": discarded,
        "left": stage.left(),
    }


def firmware(stage: Stage) -> dict[str, Any]:
    """A machine with UEFI variables and a TPM is booted beside its original, and goes without a trace."""
    images = stage.folder / "images"
    images.mkdir()
    make_images("uefi", images)
    with closing(libvirt.open(URI)) as connection:
        original = connection.defineXML(domain_xml("uefi", images, uefi=True))
        original.create()
        before = firmware_files()
        stage.answer("backup", "uefi", "--quiesce", "off")
        began = stage.answer("boot", "uefi@latest", "--name", "uefi-copy")
        copy = connection.lookupByName("uefi-copy")
        found = {
            "began": began["code"],
            "beside": [bool(original.isActive()), bool(copy.isActive())],
            "made": sorted(path.name for path in firmware_files() - before),
            "links": copy.XMLDesc(0).count("<link state='down'/>"),
        }
        stage.answer("boot", "--discard", "uefi-copy")
        return {**found, "left": [*map(str, firmware_files() - before), *stage.left()]}


def firmware_files() -> set[Path]:
    return {path for folder in (NVRAM, SWTPM) for path in folder.rglob("*") if path.parent in (NVRAM, SWTPM)}


def damaged(stage: Stage) -> dict[str, Any]:
    """Data of the point of the firmware's machine is lost: it runs, but cannot stand alone."""
    damage_a_chunk()
    began = stage.answer("boot", "uefi@latest", "--name", "uefi-copy", "--keep")
    with closing(libvirt.open(URI)) as connection:
        runs = active(connection, "uefi-copy")
    listed = stage.answer("boot", "--list")["booted"]
    assert "error" not in began or began["error"]["name"] == "PullIncomplete", began
    log = (stage.state / "booted" / "uefi-copy" / "server.log").read_text()
    stage.answer("boot", "--discard", "uefi-copy")
    return {
        "began": began,
        "runs": runs,
        "listed": [(one["domain"], one["state"], one["served"]) for one in listed],
        "log": log,
        "left": stage.left(),
    }


def damage_a_chunk() -> None:
    """Of the disk of the newest point of the firmware's machine; what it needs to start is whole."""
    repository = puller.open_repository(os.environ["PULLER_REPOSITORY"], password="recovery")
    maps = repository.maps
    disk, *_ = repository.points.select("uefi@latest").disks
    root = maps.root(disk.root.address)
    stored = [page for page, pack in enumerate(root.pages.packs.tolist()) if pack != ZERO]
    _, refs = next(iter(read_pages(maps, root, stored[:1], [])))
    (chunk, *_) = np.flatnonzero(refs.packs != ZERO)
    pack = repository.packs.open(PackKind.DATA, maps.table.pack_id(int(refs.packs[chunk])))
    content = bytearray(repository.store.get(pack.name))
    content[int(pack.footer.offsets[int(refs.slots[chunk])]) + 20] ^= 1
    repository.store.put(pack.name, bytes(content))


Scene = Callable[[Stage], dict[str, Any]]

SCENES: tuple[Scene, ...] = (
    failures,
    strange_host,
    full_storage,
    killed_boot,
    firmware,
    damaged,
    running_machine,
    instant_recovery,
    lost_memory,
)


def play(known: Iterable[Scene]) -> int:
    """Play the scenes, or those of them that the command line names."""
    folder = Path(sys.argv[1])
    folder.chmod(0o711)  # QEMU's user enters it
    wanted = sys.argv[2:]
    prepare_library()
    Path("/run/puller").mkdir(mode=0o700, exist_ok=True)
    # Other tests on this host may have booted machines too.
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0700", "tmpfs", "/run/puller"], check=True)
    (folder / "daemon").mkdir()
    (folder / "store").mkdir()
    with PrivateLibvirt(folder / "daemon", apart=True) as daemon, Seaweed(folder / "store") as seaweed:
        stage = Stage(folder, daemon, seaweed)
        scenes = [scene for scene in known if not wanted or scene.__name__ in wanted]
        json.dump({scene.__name__: scene(stage) for scene in scenes}, sys.stdout, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(play(SCENES))
