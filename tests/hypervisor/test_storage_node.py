"""Options of QEMU for images that are elsewhere; a server of rbd cannot be had in these tests."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from typing import Any

import pytest

from puller.hypervisor.domain.disks.storage_node import AuthSecret, StorageNode, parse_node


def parsed(xml: str, kind: str = "network") -> StorageNode | None:
    return parse_node(kind, ET.fromstring(xml))


NODES: list[tuple[str, dict[str, Any]]] = [
    (
        "<source protocol='nbd' name='far'><host name='kvm1'/></source>",
        {"driver": "nbd", "server": {"type": "inet", "host": "kvm1", "port": "10809"}, "export": "far"},
    ),
    (
        "<source protocol='https' name='iso/x.raw' query='a=b'><host name='web' port='8443'/>"
        "<ssl verify='no'/></source>",
        {"driver": "https", "url": "https://web:8443/iso/x.raw?a=b", "sslverify": False},
    ),
    (
        "<source protocol='rbd' name='vms/web1'><host name='mon1' port='6789'/><host name='mon2'/>"
        "<config file='/etc/ceph/ceph.conf'/></source>",
        {
            "driver": "rbd",
            "pool": "vms",
            "image": "web1",
            "conf": "/etc/ceph/ceph.conf",
            "server": [{"host": "mon1", "port": "6789"}, {"host": "mon2", "port": "6789"}],
        },
    ),
    (
        "<source protocol='iscsi' name='iqn.2026-11.org.example:web/2'><host name='san'/></source>",
        {
            "driver": "iscsi",
            "portal": "san:3260",
            "target": "iqn.2026-11.org.example:web",
            "lun": 2,
            "transport": "tcp",
        },
    ),
]


@pytest.mark.parametrize(
    ("protocol", "option", "value"),
    [("iscsi", "portal", "[fd00::1]:3260"), ("http", "url", "http://[fd00::1]/a/1")],
)
def test_a_server_with_an_ipv6_address(protocol: str, option: str, value: str) -> None:
    found = parsed(f"<source protocol='{protocol}' name='a/1'><host name='fd00::1'/></source>")
    assert found is not None
    assert json.loads(found.options)[option] == value


@pytest.mark.parametrize(("xml", "options"), NODES, ids=["nbd", "https", "rbd", "iscsi"])
def test_an_image_on_the_network(xml: str, options: dict[str, Any]) -> None:
    found = parsed(xml)
    assert found is not None
    assert (json.loads(found.options), found.secret) == (options, None)


def test_the_secret_of_a_server() -> None:
    auth = "<auth username='libvirt'><secret type='{}' usage='{}'/></auth>"
    rbd = parsed(f"<source protocol='rbd' name='vms/x'>{auth.format('ceph', 'main')}</source>")
    assert rbd is not None
    assert rbd.secret == AuthSecret("ceph", "", "main", "key-secret", is_base64=True)
    assert json.loads(rbd.options)["user"] == "libvirt"
    iscsi = parsed(
        f"<source protocol='iscsi' name='iqn/0'><host name='s'/>{auth.format('iscsi', 'san')}</source>"
    )
    assert iscsi is not None
    assert iscsi.secret == AuthSecret("iscsi", "", "san", "password-secret", is_base64=False)


@pytest.mark.parametrize(
    "xml",
    [
        "<source protocol='nbd' name='x' tls='yes'><host name='kvm1'/></source>",
        "<source protocol='http' name='x'><host name='web'/><auth username='u'/></source>",
        "<source protocol='gluster' name='x'><host name='g'/></source>",
        "<source protocol='nbd' name='x'><host name='h'/><slices/></source>",
    ],
)
def test_what_puller_cannot_open_has_no_node(xml: str) -> None:
    assert parsed(xml) is None
    assert parsed("<source file='/x'/>", "file") is None
