"""QEMU's listener at a TCP port: what users are told to do if it cannot listen."""

from __future__ import annotations

from pathlib import Path

import pytest

from puller.errors import HypervisorError
from puller.hypervisor.job.tcp import OverTcp, TcpListener


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
