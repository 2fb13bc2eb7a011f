"""The choices of a user for disks that are read over TCP."""

from __future__ import annotations

import pytest

from puller.errors import UsageError
from puller.hypervisor.job.tcp import over_tcp


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "127.0.0.1", "::1"])
def test_an_address_that_leads_to_this_host_is_refused(address: str) -> None:
    """In clear text nothing tells the disks of another server here from those of the domain."""
    with pytest.raises(
        UsageError, match=f"cannot read disks from {address}: this address leads to this host"
    ):
        over_tcp(None, None, address, insecure=True)


@pytest.mark.parametrize("address", ["192.0.2.21", "fd00::1", "kvm1"])
def test_an_address_of_another_host(address: str) -> None:
    found = over_tcp(None, None, address, insecure=True)
    assert found is not None
    assert found.address == address
