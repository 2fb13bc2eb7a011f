"""Results of backups of several domains: the document, the text and the failure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from puller.cli.output import failures
from puller.cli.output.results.records import record, summary
from puller.cli.output.settings import Settings
from puller.cli.output.streams import console
from puller.errors import Interrupted, PartialFailure, PullerError

if TYPE_CHECKING:
    from puller.events import Observer
    from puller.jobs.batch import Reporters, Taken
    from puller.repository.points import Point


def audience(settings: Settings, observer: Observer, complaining: bool) -> Reporters:
    """Return the reporters for running backups. ``complaining``: report each failure at once."""
    from puller.jobs.batch import Reporters

    def on_point(point: Point) -> None:
        settings.service.forget(point.domain)
        tell_point(point)

    def on_failure(subject: str, error: BaseException) -> None:
        settings.service.forget(subject)
        if complaining:
            failures.complain(failures.translate(error), settings, subject)

    return Reporters(observer, on_point, on_failure)


def tell_point(point: Point) -> None:
    """Report a new point to programs at once; people see all points at the end."""
    if console.is_heard_by_programs():
        facts: dict[str, console.Fact] = {name: getattr(point, name) for name in _FACTS}
        for name in _SUMS:
            facts[name] = sum(getattr(disk, name) for disk in point.disks)
        console.say(summary(point), "point", console.INFO, **facts)


_FACTS = ("domain", "uuid", "point", "kind", "seconds")
_SUMS = ("dirty_bytes", "read_bytes", "new_bytes", "stored_bytes")


def document(taken: Taken) -> dict[str, Any]:
    """Return ``points``, ``failed`` and, if there is any, ``left``, as in docs/cli.md."""
    left = {"left": _errors(taken.left)} if taken.left else {}
    return {"points": [record(point) for point in taken.points], "failed": _errors(taken.failed), **left}


def _errors(told: Sequence[tuple[str, BaseException]]) -> list[dict[str, Any]]:
    return [
        {"domain": domain, "error": failures.document(failures.translate(error))} for domain, error in told
    ]


def text(taken: Taken) -> str:
    """Return a line for each point."""
    return "\n".join(summary(point) for point in taken.points)


def failure(taken: Taken) -> PullerError | None:
    """Return the interruption; else the number of failed domains; if all failed, the first error."""
    if taken.interruption is not None:
        return stopped(taken, failures.translate(taken.interruption))
    errors = [(domain, failures.translate(error)) for domain, error in taken.failed]
    left = [failures.translate(error) for _, error in taken.left]
    for error in [*(error for _, error in errors), *left]:
        if isinstance(error, Interrupted):
            return stopped(taken, error)
    if not errors:
        return left[0] if left else None
    if taken.points:
        return _partial(taken, [domain for domain, _ in errors])
    domain, first = errors[0]
    if len(errors) == 1:
        return first
    message = f"cannot back up any of {len(errors)} domains; {domain}: {first.message}"
    return type(first)(message, advice=first.advice)


def stopped(taken: Taken, error: PullerError) -> PullerError:
    """Return the interruption ``error``, with the domains that are stored nevertheless."""
    if not taken.points:
        return error
    stored = ", ".join(point.point for point in taken.points)
    advice = f"Run the same command again for the other domains; stored: {stored}."
    told = Interrupted(error.message, advice=advice)
    told.__cause__ = error
    return told


def _partial(taken: Taken, failed: Sequence[str]) -> PartialFailure:
    total = len(taken.points) + len(failed)
    return PartialFailure(f"cannot back up {len(failed)} of {total} domains: {', '.join(failed)}")
