"""The options that say how to lock restore points."""

from __future__ import annotations

from datetime import timedelta

import click

from puller.errors import UsageError

MOST_DAYS = 36500

LOCK_MODE = click.option(
    "--lock-mode",
    type=click.Choice(["governance", "compliance"]),
    help="Lock what restore points need: governance (a special permission can end a lock early) or "
    "compliance (nobody can).",
)
LOCK_DAYS = click.option(
    "--lock-days",
    type=click.IntRange(min=1, max=MOST_DAYS),
    metavar="N",
    help="Lock what a restore point needs for N days from its backup. Needed with --lock-mode.",
)


def check_together(mode: str | None, days: int | None) -> None:
    """Raise UsageError if one of the two options is missing."""
    if (mode is None) != (days is None):
        raise UsageError("--lock-mode and --lock-days belong together", advice="Give both, or neither.")


def period_of(days: int | None) -> timedelta | None:
    """Return the period of ``--lock-days``."""
    return None if days is None else timedelta(days=days)
