"""A machine with one point, and the doctor who looks at it, for the tests of ``doctor``."""

from __future__ import annotations

import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import libvirt

import puller
from puller.diagnosis.doctor import Examination, doctor
from puller.diagnosis.finding import Finding, Status
from tests.lab.machine import Machine

Found = dict[str, str]
"""By ``name subject``: the status of what is not ok."""


class Ward:
    """A machine with one point in a repository, and a doctor who looks at whatever a test names."""

    def __init__(self, machine: Machine, repository: puller.Repository, folder: Path, uri: str) -> None:
        self.machine = machine
        self.repository = repository
        self.folder = folder
        self.uri = uri
        self.point = puller.backup(repository, machine.name, connect=uri)

    def checks(self, *domains: str, **choices: Any) -> list[Finding]:
        examination = Examination(self.uri, domains or (self.machine.name,), **choices)
        return list(doctor(self.repository.store, lambda: self.repository, examination))

    def found(self, *domains: str, **choices: Any) -> Found:
        """What is not ok; each such finding has one sentence of advice."""
        faults = [check for check in self.checks(*domains, **choices) if check.status is not Status.OK]
        assert all(check.advice.endswith(".") and check.text for check in faults)
        return {f"{check.name} {check.subject}": check.status.value for check in faults}

    @contextmanager
    def defined(self, name: str, edit: Callable[[ET.Element], None]) -> Iterator[Any]:
        """A domain like the machine, but for what ``edit`` changes; it is not started."""
        root = ET.fromstring(self.machine.handle.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
        root.remove(element_at(root, "uuid"))
        element_at(root, "name").text = name
        edit(root)
        handle = self.machine.handle.connect().defineXML(ET.tostring(root, encoding="unicode"))
        try:
            yield handle
        finally:
            handle.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA)

    def image(self, name: str, *options: str) -> Path:
        path = self.folder / name
        if not path.exists():
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, str(path), "8M"], check=True)
        return path


def element_at(root: ET.Element, path: str) -> ET.Element:
    element = root.find(path)
    assert element is not None
    return element


def source(path: Path | str) -> Callable[[ET.Element], None]:
    return lambda root: element_at(root, "./devices/disk/source").set("file", str(path))


def shut_off(name: str, more: Found) -> Found:
    """Domains that are only defined have no point, which is a fault since the test names them."""
    return {f"last-point {name}": "warn"} | {
        f"{check} {name}{'/vda' if check.startswith('disk') else ''}": status
        for check, status in more.items()
    }
