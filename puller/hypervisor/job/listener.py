"""Where QEMU listens for the readers of a pull job, and how puller gets there."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from puller.errors import HypervisorError
from puller.host.access import LOCAL, HostAccess
from puller.hypervisor.job.export import export_uri


class Listener(ABC):
    """One place where QEMU listens; see https://libvirt.org/formatbackup.html (``<server>``)."""

    socket: Path | None = None
    """The Unix socket on the host of QEMU, by which an open job is recognized; None for a TCP port."""

    @abstractmethod
    def element(self) -> ET.Element:
        """Return the ``<server>`` of a job."""

    @abstractmethod
    def opened(self) -> AbstractContextManager[object]:
        """Return a context in which ``uri`` leads to QEMU; enter it before the job begins."""

    def await_disconnection(self) -> None:  # noqa: B027 - a connection over TCP is closed by its client
        """Wait until QEMU has no connection of ours any more, once puller has closed them."""

    @abstractmethod
    def uri(self, export: str) -> str:
        """Return the URI of an export for a reader on this host."""

    def elsewhere(self, error: HypervisorError) -> bool:
        """Return whether the listener has moved because of ``error``, so that the job may begin after all."""
        return False


class UnixListener(Listener):
    """A Unix socket of ``host``."""

    def __init__(self, socket: Path, host: HostAccess = LOCAL) -> None:
        self.socket = socket
        self._host = host
        self._here = socket

    def element(self) -> ET.Element:
        """See Listener."""
        return ET.Element("server", transport="unix", socket=str(self.socket))

    @contextmanager
    def opened(self) -> Iterator[None]:
        """See Listener."""
        assert self.socket is not None
        with self._host.socket(self.socket) as here:
            self._here = here
            yield

    def await_disconnection(self) -> None:
        """See Listener."""
        assert self.socket is not None
        self._host.await_disconnection(self.socket)

    def uri(self, export: str) -> str:
        """See Listener."""
        return export_uri(self._here, export)
