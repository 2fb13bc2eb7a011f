"""Cleanup after a failed run, and the error to report for it.

A run whose connection to libvirt is lost cannot end its job. The job would stay open until the next run,
perhaps a night later, while the guest's writes fill the scratch. So puller connects to libvirt again. And if
a domain ends during its backup, the run mostly meets an NBD error, which does not say so.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

from puller.backups.machines.connecting import connect
from puller.backups.machines.machine import Machine, MachineHost
from puller.cancelling import CancelScope
from puller.errors import (
    ConnectionLost,
    DomainNotRunning,
    HypervisorError,
    JobLeftOpen,
    Locked,
    NbdError,
    NoSuchDomain,
    PullerError,
)
from puller.events import Notice, Observer
from puller.host.access import LOCAL
from puller.hypervisor.guest import quiesce
from puller.hypervisor.space.scratchwatch import ScratchWatch
from puller.repository.points import Point

RETURN = 20.0
"""Seconds that libvirt's daemon may take to restart."""

LINE = 600.0
"""The same for a line to another host. While this lasts, its job is open and its scratch grows."""

HURRY = 5.0
"""The same after a signal, which should end puller within 10 s."""

PERSISTENCE = 600.0
"""Seconds for which puller tries to end a job whose point is stored. A QEMU that hangs in its storage may
come to itself; while this lasts, the service counts as running and somebody looks at the scratch."""

_PAUSE = 0.2

_BETWEEN = 2.0
"""Seconds between two attempts to end a job."""


def _expired(deadline: float) -> bool:
    return time.monotonic() > deadline


class Aftermath:
    """Context around one run. ``checkpoint`` is its new checkpoint until it is committed or deleted."""

    def __init__(
        self,
        host: MachineHost,
        machine: Machine,
        repository_id: str,
        folders: Iterable[Path],
        observer: Observer,
    ) -> None:
        self._host = host
        self._machine = machine
        self._repository_id = repository_id
        self._folders = tuple(folders)
        self._observer = observer
        self._has_left = False
        self.checkpoint: str | None = None

    def __enter__(self) -> Self:
        self._start = self._machine.start_id()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, JobLeftOpen):
            return
        loss = self._loss(error)
        if loss is None and not isinstance(error, Exception):
            # A signal between the start of the job and the context that would have ended it.
            with suppress(HypervisorError, Locked):
                self._remove(self._machine)  # no thaw: the watchdog of the freeze does that
        if self.checkpoint is not None:
            self._notice(f"cannot delete checkpoint {self.checkpoint} now; the next run will")
        # After the commit, the backup has succeeded, even if a connection was lost.
        if loss is not None and isinstance(error, HypervisorError | NbdError):
            raise loss from error

    def delete(self) -> None:
        """Delete the new checkpoint if possible now; the older one records its changes too."""
        with suppress(HypervisorError):
            self._delete(self._machine)

    def keep_point(self, error: Exception, point: Point, *, stopped: bool) -> None:
        """Report a failure after the commit of ``point``, which stays; the next run cleans up.

        An open job slows the guest, so puller keeps trying to end it. But a run that a signal
        has ``stopped`` must end soon. Raises JobLeftOpen if the job stays open, or may be open because
        libvirt cannot be reached.
        """
        text = error.message if isinstance(error, PullerError) else str(error)
        if (scratch := self._scratch_at_stake(stopped)) is not None:
            self._notice(
                "the point is stored; its backup job is still open, and puller keeps trying to end it: "
                f"{text}"
            )
            self._persist(point, scratch, HURRY if stopped else PERSISTENCE)
        self._notice(f"the point is stored; the next run will clean up what is left: {text}")

    def _scratch_at_stake(self, stopped: bool) -> frozenset[Path] | None:
        """Return the scratch directories of our job if it is or may be open; None if it is not."""
        if self._host.is_alive():
            return self._open_scratch()
        return None if self._come_back(stopped=stopped) is None else frozenset(self._folders)

    def _open_scratch(self) -> frozenset[Path] | None:
        """Return the scratch directories of our open job, none if nobody says, None without job."""
        try:
            return self._machine.open_scratch(self._repository_id)
        except HypervisorError:
            return frozenset()

    def _persist(self, point: Point, scratch: Iterable[Path], seconds: float) -> None:
        """Repeat the attempt to end the job, and watch the space for its scratch meanwhile."""
        scope = self._host.scope  # a signal ends the wait in any thread
        deadline = time.monotonic() + seconds
        with ExitStack() as watches:
            for folder in scratch:
                watches.enter_context(ScratchWatch(folder, self._warn, self._host.access))
            while (error := self._try_to_end()) is not None:
                scope.check()
                if _expired(deadline):
                    raise JobLeftOpen(
                        f"point {point.point} of domain {self._machine.name} is stored, but its backup job "
                        f"cannot be ended: {error.message}",
                        advice=f"{_capitalised(self._machine.way_to_end)} before the scratch is full; "
                        "the next backup of the domain also tries to end the job.",
                    ) from error
                scope.pause(_BETWEEN)

    def _try_to_end(self) -> PullerError | None:
        """Try to end the job, and return why it is or may still be open."""
        try:
            if self._host.is_alive():
                self._machine.end_stale(self._repository_id)
            else:
                self._clean_up_anew()
        except (NoSuchDomain, DomainNotRunning) as error:
            # A transient domain that was shut off is gone, and its job with it; so is a QEMU by itself.
            self._has_left = isinstance(error, DomainNotRunning)
            return None
        except (HypervisorError, Locked) as error:
            return error
        return None

    def _warn(self, error: PullerError) -> None:
        folder = error.message.partition(" has only ")[0]
        self._notice(
            f"{folder} is filling up and the backup job cannot be ended: guest writes may fail soon; "
            f"{self._machine.way_to_end}"
        )

    def _loss(self, error: BaseException) -> HypervisorError | None:
        """Return the loss of libvirt or of the domain that made the run fail, if there is one."""
        name = self._machine.name
        if not self._host.is_alive():
            left = self._come_back(stopped=not isinstance(error, Exception))
            if self._has_left:
                return DomainNotRunning(f"domain {name} was shut off during the backup")
            if left is not None:
                self._notice(f"the next run will end the backup job: {left.message}")
            return ConnectionLost(
                f"the connection to {self._host.label} was lost during the backup of domain {name}"
            )
        if self._start is not None and self._has_ended() and not isinstance(error, DomainNotRunning):
            return DomainNotRunning(f"domain {name} was shut off during the backup")
        return None

    def _has_ended(self) -> bool:
        """Return whether the start of the domain that was backed up has ended."""
        try:
            return self._machine.start_id() != self._start
        except HypervisorError:  # a transient domain is gone with its end
            return True

    def _come_back(self, *, stopped: bool = False) -> PullerError | None:
        """End our job over a new connection and remove its files and checkpoint; return a failure.

        It hurries if a signal ``stopped`` the run; in a batch only the scope shows that.
        """
        begun = time.monotonic()
        is_far = self._host.access is not LOCAL
        if is_far:
            self._notice(f"the line to host {self._host.access.name} is broken; puller tries to end the job")
        tidying = CancelScope()  # a signal shortens the wait and does not end it
        while (error := self._try_to_end()) is not None:
            patience = LINE if is_far else RETURN
            if _expired(begun + (HURRY if stopped or self._host.scope.cancelled else patience)):
                break
            tidying.pause(_PAUSE)
        return error

    def _clean_up_anew(self) -> None:
        with connect(self._host.uri) as host:
            self._clean_up(host.machine(self._machine.uuid))

    def _clean_up(self, machine: Machine) -> None:
        quiesce.thaw_left_over(machine.agent())
        self._remove(machine)

    def _remove(self, machine: Machine) -> None:
        """End our job and remove its files and its checkpoint, as far as they exist."""
        machine.end_stale(self._repository_id)
        for folder in self._folders:
            machine.sweep(folder, self._repository_id)
        machine.sweep_secrets((self._repository_id,))
        self._delete(machine)

    def _delete(self, machine: Machine) -> None:
        if self.checkpoint is not None:
            machine.delete_checkpoint(self.checkpoint)
            self.checkpoint = None

    def _notice(self, text: str) -> None:
        self._observer(Notice(self._machine.name, text))


def _capitalised(text: str) -> str:
    return text[0].upper() + text[1:]
