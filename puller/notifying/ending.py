"""The result of a job's run, in words. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of a run.

    Attributes:
        job: The name of the job.
        host: The name of this host.
        exit_code: The exit code of ``puller run``.
        summary: What was done, in one line.
        failure: What failed, in one line; empty if nothing did.
        advice: What to do about it; empty likewise.
        failed: The domains and the steps that failed.
        alarms: What looks wrong in new points, each with its domain.
        seconds: How long the run took.
    """

    job: str
    host: str
    exit_code: int
    summary: str
    failure: str = ""
    advice: str = ""
    failed: tuple[str, ...] = ()
    alarms: tuple[tuple[str, str], ...] = ()
    seconds: float = 0.0

    @property
    def is_well(self) -> bool:
        """Whether nothing needs attention."""
        return self.exit_code == 0 and not self.alarms

    @property
    def state(self) -> str:
        """``ok``, ``failed`` or ``looks wrong``."""
        return "failed" if self.exit_code else "looks wrong" if self.alarms else "ok"

    @property
    def subject(self) -> str:
        """One line: the state, the job, the host."""
        return _printable(f"[puller] {self.state}: {self.job} on {self.host}")

    @property
    def text(self) -> str:
        """The result, in lines. What is not UTF-8, such as the path of a file may be, is escaped."""
        lines = [self.summary]
        if self.failure:
            lines += [f"exit code {self.exit_code}: {self.failure}", self.advice]
        lines += [f"{domain} looks wrong: {text}" for domain, text in self.alarms]
        return _printable("\n".join(line for line in lines if line))


def _printable(text: str) -> str:
    """A path in an error may hold bytes that are not UTF-8."""
    return text.encode(errors="backslashreplace").decode()
