"""Booted machines that somebody meddles with while they are pulled, with virsh or another puller.

``python -m tests.integration.meddling_scenes FOLDER`` prints one JSON document for test_meddling.py.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from contextlib import closing
from typing import Any

import libvirt

from tests.integration.boot_scenes import (
    MACHINE,
    SLOW,
    Stage,
    ended,
    kill_qemu,
    play,
    pulled,
    wait_for,
)
from tests.lab import booted
from tests.lab.daemon import URI


def started_by_hand(stage: Stage) -> dict[str, Any]:
    """QEMU is killed once it has pulled, without a puller, and the machine is started with virsh.

    Nobody flushes what QEMU holds, for the guest is paused meanwhile.
    """
    stage.must_boot()
    pulling = stage.start("boot", "--resume", MACHINE, "--keep", "--limit", SLOW)
    with closing(libvirt.open(URI)) as connection:
        domain = stage.domain(connection)
        wait_for(lambda: pulled() > 0)
        pulling.kill()
        pulling.communicate()
        domain.suspend()
        domain.blockJobSetSpeed("vda", 0, 0)
        wait_for(lambda: not domain.blockJobInfo("vda", 0))
        kill_qemu(domain)
        facts = json.loads(image_tool("info", overlay(stage)))
        lacking = [one for one in json.loads(image_tool("map", overlay(stage))) if not one["present"]]
        domain.create()
        terminal = stage.terminal()
        terminal.wait_turns(5)
        outcome = stage.answer("boot", "--resume", MACHINE)
        terminal.wait_turns(terminal.turns() + 1)
        domain.suspend()
        plain = stage.plain(overlay(stage))
        defined = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
        domain.destroy()
        domain.undefine()
    untouched = booted.BLOCKS * booted.MIB // 2
    found = {
        "behind": facts.get("backing-filename"),
        "lacking": len(lacking),
        "outcome": outcome,
        "wrong_reads": terminal.wrong_reads(stage.original),
        "wrong_writes": terminal.wrong_writes(plain),
        "untouched": plain.read_bytes()[:untouched] == stage.original.read_bytes()[:untouched],
        "defined": [overlay(stage) in defined, "nbd" in defined],
    }
    shutil.rmtree(stage.state / "booted" / MACHINE)
    return {**found, "left": stage.left()}


def edited(stage: Stage) -> dict[str, Any]:
    """The machine is started from a definition without the server, and then it is to be pulled."""
    stage.must_boot()
    with closing(libvirt.open(URI)) as connection:
        domain = stage.domain(connection)
        domain.destroy()
        root = ET.fromstring(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
        for disk in root.iterfind("./devices/disk"):
            for behind in disk.findall("./backingStore"):
                disk.remove(behind)
            ET.SubElement(disk, "backingStore")
        connection.defineXML(ET.tostring(root, encoding="unicode"))
        domain.create()
    kept = stage.answer("boot", "--resume", MACHINE, "--keep")
    record = json.loads((stage.state / "booted" / MACHINE / "boot.json").read_bytes())
    stage.answer("boot", "--discard", MACHINE)
    return {"kept": kept, "whole": [disk["whole"] for disk in record["disks"]], "left": stage.left()}


def other_commands(stage: Stage) -> dict[str, Any]:
    """A machine with a snapshot is to be pulled; then it is backed up, and discarded, during the pull."""
    stage.must_boot()
    with closing(libvirt.open(URI)) as connection:
        domain = stage.domain(connection)
        snapshot = domain.snapshotCreateXML("<domainsnapshot><name>before</name></domainsnapshot>", 0)
        refused = stage.answer("boot", "--resume", MACHINE, "--keep")
        behind = json.loads(image_tool("info", overlay(stage))).get("backing-filename")
        snapshot.delete()
    pulling = stage.start("boot", "--resume", MACHINE, "--limit", SLOW)
    wait_for(lambda: pulled() > 0)
    backup = stage.answer("backup", MACHINE)
    discarded = stage.answer("boot", "--discard", MACHINE)
    return {
        "refused": refused,
        "behind": behind,
        "backup": backup,
        "discarded": discarded["code"],
        "pulling": ended(pulling),
        "left": stage.left(),
    }


def asleep(stage: Stage) -> dict[str, Any]:
    """The machine is to be on a network that is not active."""
    with closing(libvirt.open(URI)) as connection:
        network = connection.networkDefineXML("<network><name>asleep</name></network>")
        answer = stage.boot("--network", "asleep")
        network.undefine()
    return {"answer": answer, "left": stage.left()}


def overlay(stage: Stage) -> str:
    """Of vda."""
    return str(stage.state / "booted" / MACHINE / "vda.qcow2")


def image_tool(*words: str) -> bytes:
    command = ["qemu-img", words[0], "-U", "--output=json", *words[1:]]
    return subprocess.run(command, check=True, capture_output=True).stdout


if __name__ == "__main__":
    sys.exit(play((asleep, other_commands, edited, started_by_hand)))
