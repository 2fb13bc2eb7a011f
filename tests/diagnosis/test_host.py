"""Doctor on hosts of other versions than this one's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import pytest

from puller.diagnosis.finding import Status
from puller.diagnosis.host import examine
from puller.host.access import LOCAL, HostAccess
from puller.hypervisor.connection import Host, Version


@dataclass(frozen=True)
class _Versions:
    libvirt_version: Version
    qemu_version: Version = (7, 2, 0)
    uri: str = "qemu:///system"
    access: HostAccess = LOCAL


@pytest.mark.parametrize(
    ("version", "status"), [((6, 9, 0), Status.FAIL), ((6, 10, 0), Status.OK), ((9, 0, 0), Status.OK)]
)
def test_libvirt_has_to_report_unusable_checkpoints(version: Version, status: Status) -> None:
    checks = {check.name: check for check in examine(cast(Host, _Versions(version)))}
    assert checks["libvirt"].status is status
    assert checks["qemu"].status is Status.OK
