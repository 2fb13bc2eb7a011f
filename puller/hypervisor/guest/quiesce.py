"""Freeze of the guest's file systems for the instant in which the disks are frozen.

A point taken with it is like a disk after an orderly unmount; one without is like a disk after a power cut.
The freeze lasts only from just before the job begins until just after, because the guest's writers wait
meanwhile. The guest is always thawed: by this process, by a second one if this one is killed or the agent
hangs (``thawing``), and at the latest by the next run, which finds the mark. puller does not thaw file
systems that another program has frozen: the agent then refuses a second freeze.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack, nullcontext
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any, Self, TypeVar

from puller.errors import HypervisorError, NotQuiesced, PullerError
from puller.hypervisor.guest import guestexec
from puller.hypervisor.guest.agent import Agent
from puller.hypervisor.guest.quiescing import FREEZE_SECONDS, GuestRun, Quiesce, Quiescing
from puller.hypervisor.guest.thawing import ThawingProcess
from puller.hypervisor.job.frozen import FrozenDisks
from puller.hypervisor.locking.lock import lock_directory

T = TypeVar("T")

BEGIN_SECONDS = 25
"""Seconds that the start of the job may take while the guest is frozen. Together with the time of the freeze
it exceeds the 30 s after which libvirt drops a freeze that could not be sent: until then the watchdog must
not thaw."""

_LINES = 20
"""Lines of the output of a command in the guest that are reported."""


class Quiesced(FrozenDisks):
    """Disks that are frozen while the guest's file systems are frozen, if possible.

    Once entered, ``frozen_at`` is the host's time just after the freeze of the disks: all their data is
    older. ``freeze_seconds`` is how long the file systems were frozen, None if they were not; ``tell`` then
    gets the reason if it matters to the user. ``guest_runs`` are the commands that were run in the guest.
    While the disks are frozen, ``alarm`` is called once the guest would be harmed by continuing, see
    ``FrozenDisks.guarded``. Entering raises :class:`NotQuiesced` with ``Quiesce.ON``, before anything has
    begun; and the error with which ``alarm`` was called.
    """

    def __init__(
        self,
        agent: Agent,
        disks: FrozenDisks,
        quiescing: Quiescing,
        tell: Callable[[str], None],
        alarm: Callable[[PullerError], None],
    ) -> None:
        self._agent = agent
        self._disks = disks
        self._quiescing = quiescing
        self._quiesce = quiescing.quiesce
        self._tell = tell
        self._alarm = alarm
        self._alarmed: Future[None] = Future()
        self._entered = ExitStack()
        self._mark = _mark(agent)
        self._froze = False
        self._to_thaw = False
        self._watched = False
        self.frozen_at = datetime.min.replace(tzinfo=UTC)
        self.freeze_seconds: float | None = None
        self.guest_runs: tuple[GuestRun, ...] = ()

    @property
    def consistency(self) -> str:
        """``filesystem`` if they were frozen, else the consistency of the disks."""
        return "filesystem" if self._froze else self._disks.consistency

    def settle(self) -> None:
        """See FrozenDisks."""
        self._disks.settle()
        self.exports = self._disks.exports

    def confirm(self) -> None:
        """See FrozenDisks."""
        self._disks.confirm()

    def scratch_used(self) -> int | None:
        """See FrozenDisks."""
        return self._disks.scratch_used()

    def __enter__(self) -> Self:
        with ExitStack() as entered:
            entered.enter_context(self._disks.prepared())
            if self._may_freeze():
                self._enter_frozen(entered)
            else:
                self._open(entered)
            self._entered = entered.pop_all()
        return self

    def __exit__(self, *failure: Any) -> None:
        self._entered.__exit__(*failure)

    def _open(self, entered: ExitStack) -> None:
        """The job slows the guest from its start, so the alarm is set even while a thaw takes long."""
        entered.enter_context(self._disks)
        self.frozen_at = datetime.now(UTC)
        entered.enter_context(self._disks.guarded(self._heed))

    def _heed(self, error: PullerError) -> None:
        self._alarmed.set_exception(error)
        self._alarm(error)

    def _may_freeze(self) -> bool:
        if self._disks.consistency in ("offline", "none"):
            return False
        hindrance = self._hindrance()
        if self._quiesce is Quiesce.ON and hindrance is not None:
            raise NotQuiesced(hindrance)
        if self._quiesce is Quiesce.AUTO and hindrance is not None and self._quiescing.has_commands:
            self._tell(f"the commands in the guest do not run: {hindrance}")
        return self._quiesce is not Quiesce.OFF and hindrance is None

    def _hindrance(self) -> str | None:
        """Why a freeze is impossible, found without asking the agent. Reports an agent without connection."""
        name = self._agent.name
        if not self._agent.has_channel():
            return f"domain {name} has no channel for a guest agent"
        if not self._agent.is_running():
            return f"domain {name} is paused, so its guest agent cannot answer"
        if self._agent.is_connected():
            return None
        hindrance = f"the guest agent of domain {name} is not connected"
        if self._quiesce is Quiesce.AUTO:
            self._tell(f"{hindrance}: the point is crash-consistent")
        return hindrance

    def _enter_frozen(self, entered: ExitStack) -> None:
        self._agent.limit(self._quiescing.timeout)
        self._mark.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        pending = self._mark.exists()  # an earlier freeze of ours, which may be why the agent refuses
        self._mark.touch()
        self._watched = True
        with self._thawing() as process:
            froze, thawed, began = False, False, time.monotonic()
            try:
                self._run_before()
                began = time.monotonic()
                froze = self._freeze(process, pending)
                self._open(entered)
            finally:
                thawed = self._end_freeze(process)
        if froze and thawed:
            self._froze = True
            self.freeze_seconds = round(time.monotonic() - began, 3)

    def _thawing(self) -> ThawingProcess | nullcontext[None]:
        """Where no other process can reach the agent, only the next run can thaw."""
        if self._agent.watchdog is None:
            return nullcontext()
        choices = self._quiescing
        seconds: float = max(choices.timeout, FREEZE_SECONDS) + BEGIN_SECONDS
        if choices.before is not None:
            seconds += choices.before.timeout
        return ThawingProcess(self._agent.watchdog, seconds, choices.after)

    def _freeze(self, process: ThawingProcess | None, pending: bool) -> bool:
        """Freeze the guest, and return whether it is frozen.

        If the agent refuses and no earlier freeze of ours is ``pending``, cancel the thaw watchdog: any
        freeze is then another program's.
        """
        self._to_thaw = True
        try:
            frozen = self._agent.freeze(self._quiescing.mountpoints) > 0
        except HypervisorError as error:
            if self._agent.froze_nothing(error) and not pending:
                self._to_thaw = False
                self._release(process)
            self._miss(error.message)
            return False
        if not frozen:
            self._miss(f"the guest agent of domain {self._agent.name} found no file system to freeze")
        return frozen

    def _miss(self, why: str) -> None:
        if self._quiesce is Quiesce.ON:
            raise NotQuiesced(why)
        self._tell(f"{why}: the point is crash-consistent")

    def _run_before(self) -> None:
        """Run the command before the freeze. Raises NotQuiesced if it fails and the freeze is a must."""
        command = self._quiescing.before
        if command is None or self._told(guestexec.run(self._agent, command, "before", self._agent.scope)):
            return
        if self._quiesce is Quiesce.ON:
            raise NotQuiesced(
                f"the command before the freeze failed in domain {self._agent.name}: "
                f"{shlex.join(command.words)}",
                advice="Find the cause in the output of the command, above.",
            )

    def _run_after(self, process: ThawingProcess | None) -> None:
        """Run the command after the thaw, and end the watchdog. Raises an alarm that comes first.

        The command is not part of the run's scope: it undoes what the one before did.
        """
        command = self._quiescing.after
        try:
            if command is not None:
                run = partial(guestexec.run, self._agent, command, "after")
                self._told(self._unless_alarmed("guest-after", run).result())
        finally:
            self._release(process)

    def _told(self, done: GuestRun) -> bool:
        """Record and report what became of a command; return whether it succeeded."""
        self.guest_runs += (done,)
        for line in done.output.splitlines()[:_LINES]:
            self._tell(f"{done.words[0]} in the guest: {line}")
        if done.exit_code != 0:
            code = "no exit code" if done.exit_code is None else f"exit code {done.exit_code}"
            self._tell(f"{done.words[0]} in the guest failed with {code}")
        return done.exit_code == 0

    def _end_freeze(self, process: ThawingProcess | None) -> bool:
        """Thaw what may be frozen, and return whether it was. The command after it runs in any case."""
        if self._to_thaw:
            return self._thaw(process)
        self._run_after(process)
        return False

    def _thaw(self, process: ThawingProcess | None) -> bool:
        """Thaw, and return whether the guest was frozen. Without an answer, the watchdog repeats the thaw."""
        answer = self._unless_alarmed("thaw", self._agent.thaw)
        try:
            thawed = answer.result() > 0
        except HypervisorError as error:
            if not self._agent.refused(error):
                self._tell(f"{error.message}; puller repeats the thaw until the agent answers")
                return False
            self._tell(error.message)
            thawed = False
        self._run_after(process)
        return thawed

    def _unless_alarmed(self, name: str, question: Callable[[], T]) -> Future[T]:
        """Return the agent's answer, or raise an alarm that comes first.

        An agent that hangs must not keep the open job from being ended. So the call runs in a thread, which
        may be abandoned.
        """
        answer: Future[T] = Future()

        def ask() -> None:
            try:
                answer.set_result(question())
            except BaseException as error:  # noqa: BLE001 - the waiting thread raises it again
                answer.set_exception(error)

        Thread(target=ask, name=name, daemon=True).start()
        waited: list[Future[Any]] = [answer, self._alarmed]
        wait(waited, return_when=FIRST_COMPLETED)
        if not answer.done():
            self._alarmed.result()
        return answer

    def _release(self, process: ThawingProcess | None) -> None:
        """End the watchdog: nothing of ours is frozen, nor will be."""
        if not self._watched:
            return
        self._watched = False
        if process is not None:
            process.done()
        self._agent.unlimit()
        self._mark.unlink(missing_ok=True)


def thaw_left_over(agent: Agent) -> bool:
    """Thaw what a dead run of this host may have left frozen; return whether anything was frozen.

    Call it with the domain's lock held. If the agent does not answer, the next run repeats the thaw.
    """
    mark = _mark(agent)
    if not mark.exists():
        return False
    if not agent.is_connected():
        return False
    agent.limit(FREEZE_SECONDS)
    try:
        thawed = agent.thaw() > 0
    except HypervisorError as error:
        if not agent.refused(error):
            return False
        thawed = False
    agent.unlimit()
    mark.unlink(missing_ok=True)
    return thawed


def _mark(agent: Agent) -> Path:
    """Path of a file that marks a freeze of this domain by a run of this host. A reboot removes it."""
    return lock_directory() / f"{agent.uuid}.frozen"
