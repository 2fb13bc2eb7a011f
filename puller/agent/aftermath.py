"""What a run that failed has still to take back, and what to call its failure.

A run whose connection to libvirt is lost cannot end its job. The job would stay open until the next run, a
night later perhaps, and all the while the guest's writes fill the scratch. So libvirt is asked again over a
new connection. And what a run meets when its domain ends under it, an NBD error mostly, tells nobody that.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from puller.errors import ConnectionLost, DomainNotRunning, HypervisorError, Locked, NbdError, PullerError
from puller.events import Notice, Observer
from puller.hypervisor import checkpoint as checkpoints
from puller.hypervisor import openjob, quiesce, secret
from puller.hypervisor.connection import Host
from puller.hypervisor.domain import Domain

RETURN = 20.0
"""Seconds that libvirt's daemon may take to be back. Its restart takes 1 to 8."""

HURRY = 5.0
"""The same after a signal, which asks to be gone within 10 s."""

_PAUSE = 0.2


class Aftermath:
    """A context around one run. ``checkpoint`` is its new one until it is committed or gone."""

    def __init__(
        self, host: Host, domain: Domain, repository_id: str, folders: Iterable[Path], observer: Observer
    ) -> None:
        self._host = host
        self._domain = domain
        self._repository_id = repository_id
        self._folders = tuple(folders)
        self._observer = observer
        self.checkpoint: str | None = None

    def __enter__(self) -> Self:
        self._start = self._domain.start_id()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            return
        loss = self._loss(error)
        if loss is None and not isinstance(error, Exception):
            # A signal between the begin of the job and the context that would have ended it.
            with suppress(HypervisorError, Locked):
                openjob.end_stale(self._domain, self._repository_id)
                self._delete(self._domain)
        if self.checkpoint is not None:
            self._notice(f"checkpoint {self.checkpoint} could not be deleted now; the next run will")
        if loss is not None and isinstance(error, HypervisorError | NbdError):
            raise loss from error

    def delete(self) -> None:
        """Delete the new checkpoint if it can be done now: its changes count in the older one all along."""
        with suppress(HypervisorError):
            self._delete(self._domain)

    def let_be(self, error: Exception) -> None:
        """Tell what failed after the commit: the point stands, and the next run clears up what is left."""
        if not self._host.is_alive():
            self._come_back(RETURN)
        text = error.message if isinstance(error, PullerError) else str(error)
        self._notice(f"the point is stored; what is left after it is for the next run to clear up: {text}")

    def _loss(self, error: BaseException) -> HypervisorError | None:
        """What went away, if that is why the run failed."""
        name = self._domain.name
        if not self._host.is_alive():
            self._come_back(RETURN if isinstance(error, Exception) else HURRY)
            return ConnectionLost(
                f"the connection to libvirt at {self._host.uri} was lost during the backup of domain {name}"
            )
        if self._start is not None and self._has_ended() and not isinstance(error, DomainNotRunning):
            return DomainNotRunning(f"domain {name} was shut off during the backup")
        return None

    def _has_ended(self) -> bool:
        """Whether the start of the domain that was backed up is over."""
        try:
            return self._domain.start_id() != self._start
        except HypervisorError:  # a transient domain is gone with its end
            return True

    def _come_back(self, patience: float) -> None:
        """Over a new connection, end our job and remove its files and its checkpoint."""
        deadline = time.monotonic() + patience
        while True:
            try:
                with Host.connect(self._host.uri) as host:
                    self._clean_up(host.domain(self._domain.uuid))
                return
            except (HypervisorError, Locked) as error:
                if time.monotonic() > deadline:
                    self._notice(f"the backup job is left for the next run to end: {error.message}")
                    return
            time.sleep(_PAUSE)

    def _clean_up(self, domain: Domain) -> None:
        quiesce.thaw_left_over(domain)
        openjob.end_stale(domain, self._repository_id)
        for folder in self._folders:
            openjob.sweep_scratch(domain, folder, self._repository_id)
        secret.sweep_secrets(domain, self._repository_id)
        self._delete(domain)

    def _delete(self, domain: Domain) -> None:
        if self.checkpoint is not None:
            checkpoints.delete(domain, self.checkpoint)
            self.checkpoint = None

    def _notice(self, text: str) -> None:
        self._observer(Notice(self._domain.name, text))
