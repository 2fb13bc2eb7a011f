"""A job: what is backed up how, and what happens afterwards, with all defaults filled in."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

from puller.configuration.schema import Command, Keep


@dataclass(frozen=True, slots=True)
class Job:
    """One job. ``repository`` is a name or a URL; None stands for what is not said anywhere.

    ``check`` is a percentage, ``check_budget`` a time or a number of bytes; ``limit_read`` and
    ``limit_upload`` are bytes a second.
    """

    name: str
    domains: tuple[str, ...]
    exclude: tuple[str, ...] = ()
    repository: str | None = None
    connect: str | None = None
    disks: tuple[str, ...] = ()
    exclude_disks: tuple[str, ...] = ()
    mode: str | None = None
    quiesce: str | None = None
    compression: str | int | None = None
    compare_every: timedelta | None = None
    limit_read: int | None = None
    limit_upload: int | None = None
    scratch_dir: str | None = None
    staging_dir: str | None = None
    parallel: int = 1
    tags: dict[str, str] = field(default_factory=dict)
    hosts: tuple[str, ...] = ()
    across_hosts: bool = False
    then: tuple[str, ...] = ()
    keep: Keep = field(default_factory=Keep)
    grace: timedelta | None = None
    check: float = 0.0
    check_max_age: timedelta | None = None
    check_budget: timedelta | int | None = None
    metrics_file: str | None = None
    before: Command | None = None
    after: Command | None = None
