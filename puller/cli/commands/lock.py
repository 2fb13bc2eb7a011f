"""``puller lock``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from puller.cli.input.access import open_repository
from puller.cli.input.locks import LOCK_DAYS, LOCK_MODE, check_together, period_of
from puller.cli.input.options import Command
from puller.cli.output.outcome import Outcome
from puller.cli.output.settings import Settings
from puller.errors import UsageError

if TYPE_CHECKING:
    from puller.api import LockMode
    from puller.repository.records.lockpolicy import LockPolicy


@click.command("lock", cls=Command)
@LOCK_MODE
@LOCK_DAYS
@click.option("--off", is_flag=True, help="Lock nothing from now on. Existing locks last until they end.")
@click.pass_obj
def command(settings: Settings, lock_mode: LockMode | None, lock_days: int | None, off: bool) -> Outcome:
    """Show or change for how long restore points are locked.

    Without options, show the lock policy of the repository. A change applies to new backups: each locks
    everything that its restore point needs. The bucket must have Object Lock.
    """
    check_together(lock_mode, lock_days)
    if off and lock_mode is not None:
        raise UsageError("--off excludes --lock-mode", advice="Choose one of them.")
    repository = open_repository(settings)
    from puller import api

    if off or lock_mode is not None:
        api.set_lock(repository, mode=lock_mode, period=period_of(lock_days))
    policy = api.lock_policy(repository)
    return Outcome(_document(policy), _text(policy))


def _document(policy: LockPolicy | None) -> dict[str, object]:
    if policy is None:
        return {"mode": None, "seconds": None}
    return {"mode": policy.mode, "seconds": policy.seconds}


def _text(policy: LockPolicy | None) -> str:
    if policy is None:
        return "new restore points are not locked"
    return f"new restore points are locked for {policy.seconds / 86400:g} days, {policy.mode}"
