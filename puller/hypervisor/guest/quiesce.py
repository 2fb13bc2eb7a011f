"""File systems of the guest that stand still for the instant in which the disks are frozen.

A point taken so is like a disk after an orderly unmount; one taken without is like a disk after a power cut.
The freeze is kept as short as can be, from just before the job begins until just after: the guest's
writers wait meanwhile. Whatever happens, it is thawed: by this process, by a second one when this one is
killed or the agent hangs (``thawing``), and at the latest by the next run, which finds the mark. Only what
another program has frozen is left to it: the agent refuses a second freeze then.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack, nullcontext
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from threading import Thread
from typing import Any, Self

from puller.errors import HypervisorError, NotQuiesced, PullerError
from puller.hypervisor.domain.domain import Domain
from puller.hypervisor.guest import guestagent
from puller.hypervisor.guest.thawing import ThawingProcess
from puller.hypervisor.job.frozen import FrozenDisks
from puller.hypervisor.locking.lock import lock_directory
from puller.hypervisor.uri import is_embedded

FREEZE_SECONDS = 10
"""How long the agent may take to freeze, and to thaw. File systems flush first. Windows holds writes for 10 s
at most by itself."""

BEGIN_SECONDS = 25
"""How long the guest may stand still for the begin of the job, which takes some 50 ms. Both together are more
than the 30 s after which libvirt gives up a freeze that could not be sent: until then nothing is thawed."""


class Quiesce(Enum):
    """Whether to freeze: ``AUTO`` goes on without where it cannot be had, ``ON`` refuses."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


class Quiesced(FrozenDisks):
    """Disks that are frozen while the guest's file systems stand still, if they can.

    Once entered, ``frozen_at`` is the host's time just after that: all that the disks hold is older.
    ``freeze_seconds`` says how long the guest stood still, None if it did not. Why it did not
    is told to ``tell`` where that is of interest. As long as the disks are frozen, ``alarm`` is called once
    the guest would be hurt by going on, see ``FrozenDisks.guarded``.
    Entering raises :class:`NotQuiesced` if it was wanted by all means, and nothing has begun then; and what
    ``alarm`` was called with.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - what a freeze is made of
        self,
        domain: Domain,
        uri: str,
        disks: FrozenDisks,
        quiesce: Quiesce,
        tell: Callable[[str], None],
        alarm: Callable[[PullerError], None],
    ) -> None:
        self._domain = domain
        self._uri = uri
        self._disks = disks
        self._quiesce = quiesce
        self._tell = tell
        self._alarm = alarm
        self._alarmed: Future[None] = Future()
        self._entered = ExitStack()
        self._mark = _mark(domain)
        self._froze = False
        self._to_thaw = True
        self.frozen_at = datetime.min.replace(tzinfo=UTC)
        self.freeze_seconds: float | None = None

    @property
    def consistency(self) -> str:
        """``filesystem`` if they did, else as of the disks."""
        return "filesystem" if self._froze else self._disks.consistency

    def settle(self) -> None:
        """As of the disks."""
        self._disks.settle()
        self.exports = self._disks.exports

    def confirm(self) -> None:
        """As of the disks."""
        self._disks.confirm()

    def scratch_used(self) -> int | None:
        """As of the disks."""
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
        """The guest pays for the disks from their begin, however long a thaw takes then."""
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
        return self._quiesce is not Quiesce.OFF and hindrance is None

    def _hindrance(self) -> str | None:
        """Why it cannot freeze, before asking; an agent that should be there and is not gets told."""
        name = self._domain.name
        if not guestagent.has_channel(self._domain):
            return f"domain {name} has no channel for a guest agent"
        if not self._domain.is_running():
            return f"domain {name} is paused, so its guest agent cannot answer"
        if guestagent.is_connected(self._domain):
            return None
        hindrance = f"the guest agent of domain {name} is not connected"
        if self._quiesce is Quiesce.AUTO:
            self._tell(f"{hindrance}: the point is crash-consistent")
        return hindrance

    def _enter_frozen(self, entered: ExitStack) -> None:
        guestagent.set_time_limit(self._domain, FREEZE_SECONDS)
        self._mark.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        owed = self._mark.exists()  # an earlier freeze of ours: what the agent refuses may be because of that
        self._mark.touch()
        with self._thawing() as process:
            began = time.monotonic()
            try:
                froze = self._freeze(process, owed)
                self._open(entered)
            finally:
                thawed = self._to_thaw and self._thaw(process)
        if froze and thawed:
            self._froze = True
            self.freeze_seconds = round(time.monotonic() - began, 3)

    def _thawing(self) -> ThawingProcess | nullcontext[None]:
        """No other process reaches an embedded driver; there the next run has to do."""
        if is_embedded(self._uri):
            return nullcontext()
        return ThawingProcess(self._uri, self._domain.uuid, FREEZE_SECONDS + BEGIN_SECONDS)

    def _freeze(self, process: ThawingProcess | None, owed: bool) -> bool:
        """Whether the guest stands still. Where it does not, and no earlier freeze is ``owed`` a thaw, nobody
        is to thaw from here on: what is frozen, or will be in a moment, is another program's.
        """
        try:
            return guestagent.freeze(self._domain) > 0
        except HypervisorError as error:
            if guestagent.froze_nothing(error) and not owed:
                self._to_thaw = False
                self._release(process)
            if self._quiesce is Quiesce.ON:
                raise NotQuiesced(error.message) from error
            self._tell(f"{error.message}: the point is crash-consistent")
            return False

    def _thaw(self, process: ThawingProcess | None) -> bool:
        """Whether the guest stood still until now. If the agent does not answer, others go on asking."""
        answer = self._answer_to_thaw()
        try:
            thawed = answer.result() > 0
        except HypervisorError as error:
            if not guestagent.is_refusal(error):
                self._tell(f"{error.message}; it is tried on until the agent answers")
                return False
            self._tell(error.message)
            thawed = False
        self._release(process)
        return thawed

    def _answer_to_thaw(self) -> Future[int]:
        """The agent's answer. An alarm that comes first is raised: with a job open, an agent that hangs
        must not keep its end from it. So it is asked in a thread, which may be left.
        """
        answer: Future[int] = Future()

        def ask() -> None:
            try:
                answer.set_result(guestagent.thaw(self._domain))
            except BaseException as error:  # noqa: BLE001 - it is raised again by who waits
                answer.set_exception(error)

        Thread(target=ask, name="thaw", daemon=True).start()
        waited: list[Future[Any]] = [answer, self._alarmed]
        wait(waited, return_when=FIRST_COMPLETED)
        if not answer.done():
            self._alarmed.result()
        return answer

    def _release(self, process: ThawingProcess | None) -> None:
        """Nothing of ours is frozen, nor will be."""
        if process is not None:
            process.done()
        guestagent.set_time_limit(self._domain, guestagent.FOREVER)
        self._mark.unlink(missing_ok=True)


def thaw_left_over(domain: Domain) -> bool:
    """Thaw what a dead run of this host may have left frozen; whether there was anything frozen.

    Call it with the domain's lock held. An agent that gives no answer is asked by the next run again.
    """
    mark = _mark(domain)
    if not mark.exists():
        return False
    if not guestagent.is_connected(domain):
        return False
    guestagent.set_time_limit(domain, FREEZE_SECONDS)
    try:
        thawed = guestagent.thaw(domain) > 0
    except HypervisorError as error:
        if not guestagent.is_refusal(error):
            return False
        thawed = False
    guestagent.set_time_limit(domain, guestagent.FOREVER)
    mark.unlink(missing_ok=True)
    return thawed


def _mark(domain: Domain) -> Path:
    """A file that says: a run of this host has begun to freeze this domain. It goes with a reboot."""
    return lock_directory() / f"{domain.uuid}.frozen"
