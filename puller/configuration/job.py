"""A job: what to back up and how, and the steps afterwards, with all defaults filled in."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

from puller.configuration.quantities import Pace
from puller.configuration.schema import Command, Keep, Notify

Mode = Literal["pull", "push"]
"""How frozen disks are copied: puller reads them over NBD, or QEMU writes images that puller reads."""

QuiesceMode = Literal["auto", "on", "off"]
"""Whether to freeze the guest's file systems: if the agent answers, always (or fail), or never."""

JobStep = Literal["backup", "copy", "prune", "check", "prove", "report"]
"""A step of a job."""


@dataclass(frozen=True, slots=True)
class Job:
    """One job of the configuration. docs/cli.md, "Configuration", describes each key.

    None stands for a key that is not set. ``repository`` and ``copy_to`` are names or URLs, ``report`` is
    the path of the page, ``check`` is a percentage, ``check_budget`` a time or a number of bytes, ``prove``
    a number of machines, ``interval`` a duration as text; a number as ``pace`` and ``limit_upload`` are in
    bytes per second, ``memory`` is in bytes.
    """

    name: str
    domains: tuple[str, ...]
    exclude: tuple[str, ...] = ()
    repository: str | None = None
    connect: str | None = None
    disks: tuple[str, ...] = ()
    exclude_disks: tuple[str, ...] = ()
    mode: Mode | None = None
    quiesce: QuiesceMode | None = None
    quiesce_timeout: timedelta | None = None
    quiesce_mountpoints: tuple[str, ...] = ()
    guest_before: Command | None = None
    guest_after: Command | None = None
    compression: Literal["auto", "fast"] | int | None = None
    compare_every: timedelta | None = None
    attach_limit: int | None = None
    pace: Pace | None = None
    limit_upload: int | None = None
    memory: int | None = None
    scratch_dir: str | None = None
    staging_dir: str | None = None
    nbd_tls: str | None = None
    nbd_ports: str | None = None
    nbd_address: str | None = None
    parallel: int = 1
    interval: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    hosts: tuple[str, ...] = ()
    across_hosts: bool = False
    then: tuple[str, ...] = ()
    keep: Keep = field(default_factory=Keep)
    grace: timedelta | None = None
    check: float = 0.0
    check_max_age: timedelta | None = None
    check_budget: timedelta | int | None = None
    prove: int = 1
    copy_to: str | None = None
    report: str | None = None
    metrics_file: str | None = None
    notify: Notify | None = None
    before: Command | None = None
    after: Command | None = None

    @property
    def steps(self) -> tuple[JobStep, ...]:
        """Steps of a run, in order: the backups, then the steps in ``then``."""
        later: tuple[JobStep, ...] = ("copy", "prune", "check", "prove", "report")
        return ("backup", *(step for step in later if step in self.then))
