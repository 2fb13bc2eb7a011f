"""What a QEMU says about its machine, for the attachment ``qemu.json`` of a point.

It stands in for libvirt's XML: from it, a person can start the machine again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import pairwise

from puller.errors import MonitorRefused
from puller.qmp.drives import Drive
from puller.qmp.machine import QemuMachine

_QUERIES = (
    "query-name",
    "query-uuid",
    "query-version",
    "query-target",
    "query-kvm",
    "query-current-machine",
    "query-memory-size-summary",
    "query-cpus-fast",
    "query-memory-devices",
    "query-chardev",
    "query-iothreads",
)
"""Queries whose answers describe the machine and not its state at a moment."""

_FILES = {"-kernel": "kernel", "-initrd": "initrd", "-dtb": "device tree", "-bios": "firmware"}
"""Options that name files of the host which are not disks, and what these are."""

_TABLES = {"-fw_cfg": "fw_cfg file", "-acpitable": "ACPI table", "-smbios": "SMBIOS table"}
"""The same, of options in which the file is one of several parameters."""

_PARAMETER = re.compile(r"(?:^|,)(?:file|data)=([^,]+)")

_VOLATILE = frozenset({"thread-id", "frontend-open"})
"""Fields that change while the machine runs."""


def describe(machine: QemuMachine, *, sealed: bool) -> bytes:
    """Return the document. The command line, which may hold passwords, is in it only if ``sealed``."""
    facts: dict[str, object] = {}
    for query in _QUERIES:
        with suppress(MonitorRefused):  # older or other machines do not know it
            facts[query] = _steady(machine.monitor.ask(query))
    facts["disks"] = [_disk(drive) for drive in machine.drives()]
    if sealed and (words := machine.command_line()) is not None:
        facts["command-line"] = list(words)
    return json.dumps(facts, indent=1, sort_keys=True).encode()


def _disk(drive: Drive) -> dict[str, object]:
    disk = drive.disk
    return {
        "disk": disk.target,
        "node": drive.node,
        "device": disk.device,
        "format": disk.format,
        "source": disk.source,
        "backing": list(disk.backing),
        "size": drive.size,
        "readonly": disk.readonly,
    }


def _steady(answer: object) -> object:
    if isinstance(answer, dict):
        return {key: _steady(value) for key, value in answer.items() if key not in _VOLATILE}
    return [_steady(item) for item in answer] if isinstance(answer, list) else answer


def outside_files(words: Sequence[str]) -> Iterator[str]:
    """Return each file that a command line names and no point holds, with its purpose."""
    for word, value in pairwise(words):
        option = word.replace("--", "-", 1)
        if (purpose := _FILES.get(option)) is not None:
            yield f"{purpose} {value}"
        elif (purpose := _TABLES.get(option)) is not None:
            yield from (f"{purpose} {path}" for path in _PARAMETER.findall(value))
