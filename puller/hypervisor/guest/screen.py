"""The screen of a running guest."""

from __future__ import annotations

from typing import Any

import libvirt

from puller.hypervisor.domain.domain import Domain
from puller.hypervisor.faults import code_of, translate
from puller.units import MIB

_LIMIT = 64 * MIB
"""Most bytes of a picture: 4096 x 4096 pixels of 3 bytes, and room."""

_NO_SCREEN = (
    libvirt.VIR_ERR_INVALID_ARG,
    libvirt.VIR_ERR_OPERATION_UNSUPPORTED,
    libvirt.VIR_ERR_INTERNAL_ERROR,
)


def screenshot(domain: Domain) -> bytes | None:
    """Return a picture of the guest's first screen; None if it has no screen.

    It is a PNG if libvirt and QEMU can make one (8.10 and 7.1), else a PPM. Raises HypervisorError.
    """
    if "<video" not in domain.xml():
        return None
    parts: list[bytes] = []

    def collect(_: Any, part: bytes, __: Any) -> int:
        parts.append(part)
        return len(part) if sum(map(len, parts)) <= _LIMIT else -1

    with translate(f"cannot take a screenshot of domain {domain.name}"):
        stream = domain.handle.connect().newStream()
        try:
            domain.handle.screenshot(stream, 0)
            stream.recvAll(collect, None)
            stream.finish()
        except libvirt.libvirtError as error:
            if code_of(error) in _NO_SCREEN:
                return None
            raise
    return b"".join(parts)
