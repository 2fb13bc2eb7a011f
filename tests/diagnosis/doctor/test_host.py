"""``doctor`` on real libvirt: faults of the host and of domains are found, and nothing else is."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import libvirt
import pytest

from puller.diagnosis import domain as domains
from puller.diagnosis.doctor import Examination, doctor
from puller.diagnosis.domain import ExaminedDomain
from puller.diagnosis.finding import Finding, Status
from puller.hypervisor.connection import Host
from puller.hypervisor.job.job import socket_path
from tests.diagnosis.doctor.ward import Ward, shut_off, source

QEMU_NAMESPACE = "{http://libvirt.org/schemas/domain/qemu/1.0}"


def test_a_sound_host_has_no_fault(ward: Ward) -> None:
    checks = ward.checks()
    assert {check.status for check in checks} == {Status.OK}
    assert {check.name for check in checks} >= {
        "libvirt",
        "qemu",
        "libnbd",
        "open-job",
        "disk-base",
        "socket",
    }
    assert not list(ward.repository.store.list("locks/"))


def test_it_changes_nothing(ward: Ward) -> None:
    def state() -> object:
        files = {path: path.stat().st_mtime_ns for path in ward.folder.rglob("*") if path.is_file()}
        return files, ward.machine.handle.XMLDesc(0), ward.machine.bitmaps("vda")

    before = state()
    ward.checks()
    assert state() == before


def test_domains_that_nobody_named_may_be_shut_off(ward: Ward) -> None:
    with ward.defined("idle", source(ward.image("idle.img"))):
        examination = Examination(ward.uri)
        checks = list(doctor(ward.repository.store, lambda: ward.repository, examination))
    assert {check.status for check in checks if check.subject.startswith("idle")} == {Status.OK}


def test_a_domain_that_is_undefined_after_the_listing_is_no_fault(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    uuids, questions = Host.uuids, domains.examine
    with (
        ward.defined("before", lambda root: None) as before,
        ward.defined("amidst", lambda root: None) as amidst,
    ):
        xml = {handle.name(): handle.XMLDesc() for handle in (before, amidst)}

        def listed(host: Host) -> dict[str, str]:
            known = uuids(host)
            before.undefine()
            return known

        def vanishing(examined: ExaminedDomain) -> Iterator[Finding]:
            if examined.domain.name == "amidst":
                amidst.undefine()
            yield from questions(examined)

        monkeypatch.setattr(Host, "uuids", listed)
        monkeypatch.setattr(domains, "examine", vanishing)
        checks = [check for check in ward.checks("*") if check.subject.partition("/")[0] in xml]
        assert [(check.subject, check.status, check.text) for check in checks] == [
            ("amidst", Status.OK, "undefined meanwhile"),
            ("before", Status.OK, "undefined meanwhile"),
        ]
        for text in xml.values():
            ward.machine.handle.connect().defineXML(text)


def test_what_is_the_same_for_all_domains_is_asked_once(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    """libvirt may start a QEMU for each such question: 40 domains took a minute."""
    asked: list[str] = []
    for name in ("getCapabilities", "getDomainCapabilities"):
        ask = getattr(libvirt.virConnect, name)

        def counted(*arguments: Any, name: str = name, ask: Any = ask) -> Any:
            asked.append(name)
            return ask(*arguments)

        monkeypatch.setattr(libvirt.virConnect, name, counted)
    with ExitStack() as defined:
        for number in range(12):
            defined.enter_context(ward.defined(f"web{number}", lambda root: None))
        ward.checks("*")
    assert sorted(asked) == ["getCapabilities", "getDomainCapabilities"]


def test_no_such_domain(ward: Ward) -> None:
    assert ward.found("nonsense") == {"domain nonsense": "fail"}


def test_libvirt_cannot_be_reached(ward: Ward) -> None:
    uri = "qemu+unix:///system?socket=/nonexistent"
    checks = doctor(ward.repository.store, lambda: ward.repository, Examination(uri))
    assert [check.name for check in checks if check.status is Status.FAIL] == ["connection"]


def test_a_domain_that_is_shut_off_and_has_no_point(ward: Ward) -> None:
    with ward.defined("off", source(ward.image("off.img"))):
        assert ward.found("off") == shut_off("off", {})


def test_a_transient_domain(ward: Ward) -> None:
    xml = ward.machine.handle.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    ward.machine.handle.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA)
    try:
        assert "persistence ward" in ward.found()
    finally:
        ward.machine.handle.connect().defineXML(xml)


@pytest.mark.parametrize("name", ["libvirt", "qemu"])
def test_a_version_that_is_too_old(ward: Ward, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(f"puller.diagnosis.host.LEAST_{name.upper()}", (99, 0, 0))
    assert ward.found() == {f"{name} {ward.uri}": "fail"}


def test_an_emulator_that_libvirt_cannot_back_up(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    """No QEMU so old is at hand: libvirt's answer is altered on its way. A domain's XML may overrule it."""

    class Unable:
        def getDomainCapabilities(self, *_: object) -> str:  # noqa: N802 - libvirt's name
            return "<domainCapabilities><features><backup supported='no'/></features></domainCapabilities>"

    def switched_on(root: ET.Element) -> None:
        source(ward.image("forced.img"))(root)
        capabilities = ET.SubElement(root, f"{QEMU_NAMESPACE}capabilities")
        ET.SubElement(capabilities, f"{QEMU_NAMESPACE}add", capability="incremental-backup")

    with Host.connect(ward.uri) as host, ward.defined("forced", switched_on):
        ordinary, forced = host.domain("ward"), host.domain("forced")
        assert host.supports_backup(ordinary)
        unable = Host(Unable(), ward.uri)
        assert not unable.supports_backup(ordinary)
        assert unable.supports_backup(forced)
    monkeypatch.setattr(Host, "supports_backup", lambda host, domain: False)
    assert ward.found() == {"backup-support ward": "fail"}


def test_a_folder_whose_path_is_too_long_for_a_socket(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    with Host.connect(ward.uri) as host:
        domain = host.domain("ward")
        length = len(str(socket_path(domain, ward.point.checkpoint or "")))
    monkeypatch.setattr("puller.diagnosis.scratch.SOCKET_PATH", length)
    assert ward.found() == {}
    monkeypatch.setattr("puller.diagnosis.scratch.SOCKET_PATH", length - 1)
    assert ward.found() == {"socket ward": "fail"}
