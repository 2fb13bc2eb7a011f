"""Results of a run of a job."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from puller.errors import DamagedData, DrillFailed, Interrupted, PartialFailure, PullerError
from puller.jobs.batch import Taken
from puller.overview.alarm import Alarm
from puller.overview.report import Report
from puller.recovery.proving.prove import Drills
from puller.upkeep.checking.check import CheckReport
from puller.upkeep.copying.copy import CopyReport
from puller.upkeep.pruning.prune import PruneReport

BACKUP, COPY, PRUNE, CHECK, PROVE, REPORT = "backup", "copy", "prune", "check", "prove", "report"
BEFORE, AFTER = "before", "after"

STEPS = (BACKUP, COPY, PRUNE, CHECK, PROVE, REPORT)
"""Steps that a job can have."""

ORDER = (BEFORE, *STEPS, AFTER)
"""The steps and commands of a job, in the order of a run."""


@dataclass
class JobReport:
    """Results of a run of a job.

    Attributes:
        job: The name of the job.
        taken: The points of the backups, and the domains that failed.
        alarms: What looks wrong in these points, each with its domain.
        copy: Report of the copy to another repository; None if that step was not run or failed.
        prune: Report of the prune; None likewise.
        check: Report of the check; None likewise.
        prove: Results of the restore drills; None likewise.
        report: What the page about all machines shows; None likewise.
        failures: The steps that failed, each with its error.
        interruption: What stopped the run early, such as a KeyboardInterrupt; None if nothing did.
    """

    job: str
    taken: Taken = field(default_factory=Taken)
    alarms: list[tuple[str, Alarm]] = field(default_factory=list)
    copy: CopyReport | None = None
    prune: PruneReport | None = None
    check: CheckReport | None = None
    prove: Drills | None = None
    report: Report | None = None
    failures: list[tuple[str, BaseException]] = field(default_factory=list)
    interruption: BaseException | None = None

    @property
    def exit_code(self) -> int:
        """Exit code of ``puller run`` for this report; 0 if everything succeeded."""
        if self._is_interrupted():
            return Interrupted.exit_code
        found = sorted(self._codes(), key=lambda item: ORDER.index(item[0]))
        codes = [code for _, code in found]
        if len(codes) > 1 and self.taken.points:
            return PartialFailure.exit_code
        return DamagedData.exit_code if DamagedData.exit_code in codes else next(iter(codes), 0)

    def _is_interrupted(self) -> bool:
        errors = [error for _, error in (*self.taken.failed, *self.taken.left)]
        return self.interruption is not None or any(isinstance(error, Interrupted) for error in errors)

    def _codes(self) -> Iterator[tuple[str, int]]:
        """Return the exit codes of the failed steps."""
        yield from ((step, _code(error)) for step, error in self.failures)
        taken = self.taken
        if taken.failed:
            yield BACKUP, PartialFailure.exit_code if taken.points else _code(taken.failed[0][1])
        elif taken.left:
            yield BACKUP, _code(taken.left[0][1])
        if self.copy is not None and self.copy.error is not None:
            yield COPY, self.copy.error.exit_code
        if self.check is not None and self.check.errors:
            yield CHECK, DamagedData.exit_code
        if self.prove is not None:
            yield from ((PROVE, _code(error)) for _, error in self.prove.failed[:1])
            if self.prove.unproven:
                yield PROVE, DrillFailed.exit_code


def _code(error: BaseException) -> int:
    return error.exit_code if isinstance(error, PullerError) else PullerError.exit_code
