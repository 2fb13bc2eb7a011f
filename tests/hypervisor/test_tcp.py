"""Disks that are read over TCP: the choices of a user, and what to correct if QEMU cannot listen."""

from __future__ import annotations

from pathlib import Path

import pytest

from puller.errors import HypervisorError, UsageError
from puller.hypervisor.job.tcp import OverTcp, TcpListener, over_tcp


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "127.0.0.1", "::1"])
def test_an_address_that_leads_to_this_host_is_refused(address: str) -> None:
    """In clear text, puller cannot tell the disks of another server on this host from those of the domain."""
    with pytest.raises(
        UsageError, match=f"cannot read disks from {address}: this address leads to this host"
    ):
        over_tcp(None, None, address, insecure=True)


@pytest.mark.parametrize("address", ["192.0.2.21", "fd00::1", "kvm1"])
def test_an_address_of_another_host(address: str) -> None:
    found = over_tcp(None, None, address, insecure=True)
    assert found is not None
    assert found.address == address


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        ("Failed to bind socket: Cannot assign requested address", "--nbd-address"),
        ("Unable to access credentials /etc/pki/qemu/ca-cert.pem: No such file or directory", "QEMU's user"),
        ("Cannot load certificate 'server-cert.pem': Error while reading file", "Certificates step by step"),
    ],
)
def test_the_advice_names_what_to_correct(words: str, advice: str) -> None:
    listener = TcpListener(OverTcp(Path("/etc/puller/tls"), range(20000, 20002), None), "127.0.0.1")
    with pytest.raises(HypervisorError) as caught:
        listener.elsewhere(HypervisorError(f"cannot begin a backup: {words}"))
    assert caught.value.message == f"cannot begin a backup: {words}"
    assert advice in caught.value.advice


def test_other_errors_are_left_as_they_are() -> None:
    listener = TcpListener(OverTcp(Path("/etc/puller/tls"), range(20000, 20002), None), "127.0.0.1")
    assert not listener.elsewhere(HypervisorError("cannot begin a backup: no such checkpoint"))
