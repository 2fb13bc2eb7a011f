"""A server of a point in an open repository."""

from __future__ import annotations

from puller.events import Observer, ignore
from puller.recovery.serving.opening import opened_form
from puller.recovery.serving.process import Export, ServerProcess, Service
from puller.recovery.serving.session import Session
from puller.repository.points import Point
from puller.repository.repository import Repository

__all__ = ["Export", "Server", "Service"]


class Server(ServerProcess):
    """Serves ``point`` until ``end``, or until the context that it is ends. See the package.

    nbdkit's process opens the repository itself, with the keys of this one. Raises as ``ServerProcess`` does.
    """

    def __init__(
        self, repository: Repository, point: Point, service: Service, observer: Observer = ignore
    ) -> None:
        session = Session(
            repository.store.url,
            point.point,
            service.memory,
            (),
            service.disks,
            opened=opened_form(repository, point),
            patience=repository.scope.policy.seconds,
            writable=service.writable,
            folder=None if service.folder is None else str(service.folder),
            folder_size=service.folder_size,
            options=repository.store_options,
        )
        super().__init__(session, service, observer, repository.scope)
