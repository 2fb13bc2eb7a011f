"""The keys of the configuration: their types, and what each is for, in one place.

The checks, the remedy that a mistake is answered with and the example are all made of this. A key's type
is checked by msgspec; ``Text`` with a reader is then read by it, which raises ValueError.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_type_hints

import msgspec

from puller.configuration.quantities import duration, rate


@dataclass(frozen=True, slots=True)
class Key:
    """What a key is for, in words that follow "It is"; an example in TOML; how its text is read."""

    meaning: str
    example: str
    read: Callable[[str], Any] | None = None


Text = Annotated[str, msgspec.Meta(min_length=1, pattern="^[^\\x00-\\x1f]*\\Z")]
Name = Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}\\Z")]
Count = Annotated[int, msgspec.Meta(ge=1)]
Texts = Annotated[list[Text], msgspec.Meta(min_length=1)]

_COUNT = "how many of the newest {} with a point keep one, 1 or more"


class Table(msgspec.Struct, rename="kebab", forbid_unknown_fields=True):
    """Base of all tables: the names of keys have hyphens, and no others are taken."""


class Command(Table):
    """``[jobs.NAME.before]`` and ``.after``."""

    command: Annotated[
        Texts, Key("the program and its arguments, a text each; no shell reads them", '["/bin/true"]')
    ]
    timeout: Annotated[
        Count, Key("after how many seconds the command is killed and counts as failed", "600")
    ] = 600


class Keep(Table):
    """``[jobs.NAME.keep]``: which of the job's points stay when it is pruned."""

    last: Annotated[Count | None, Key("how many of the newest points stay, 1 or more", "3")] = None
    hourly: Annotated[Count | None, Key(_COUNT.format("hours"), "24")] = None
    daily: Annotated[Count | None, Key(_COUNT.format("days"), "7")] = None
    weekly: Annotated[Count | None, Key(_COUNT.format("weeks"), "4")] = None
    monthly: Annotated[Count | None, Key(_COUNT.format("months"), "6")] = None
    yearly: Annotated[Count | None, Key(_COUNT.format("years"), "1")] = None
    within: Annotated[
        Text | None, Key("a duration: what is at most so much older than the newest stays", '"36h"', duration)
    ] = None


class RepositoryTable(Table):
    """``[repositories.NAME]``."""

    url: Annotated[
        Text, Key("where the repository is: s3://bucket/prefix, or a folder", '"s3://backups/kvm"')
    ]
    key_file: Annotated[
        Text | None, Key("the key file that opens it, by its absolute path", '"/etc/puller/main.key"')
    ] = None
    password_file: Annotated[
        Text | None, Key("a file that holds its password, by its absolute path", '"/etc/puller/password"')
    ] = None


class Shared(Table):
    """What a job says for itself, else ``[defaults]`` for all."""

    repository: Annotated[Text | None, Key("the name of one of [repositories], or a URL", '"main"')] = None
    connect: Annotated[Text | None, Key("where libvirt is", '"qemu:///system"')] = None
    disks: Annotated[Texts | None, Key("the only disks to take, by target", '["vda"]')] = None
    exclude_disks: Annotated[Texts | None, Key("disks to leave out, by target", '["vdb"]')] = None
    mode: Annotated[
        Literal["pull", "push"] | None, Key("how libvirt hands over the data: pull or push", '"pull"')
    ] = None
    quiesce: Annotated[
        Literal["auto", "on", "off"] | None,
        Key("whether the guest agent freezes file systems: auto, on or off", '"auto"'),
    ] = None
    compression: Annotated[
        Literal["auto"] | Annotated[int, msgspec.Meta(ge=1, le=19)] | None,
        Key('the level of zstd, from 1 to 19, or "auto"', '"auto"'),
    ] = None
    compare_every: Annotated[
        Text | None,
        Key(
            "a duration: disks not read as a whole for that long are read as a whole and compared",
            '"30d"',
            duration,
        ),
    ] = None
    limit_read: Annotated[
        Text | None, Key("how fast disks are read at most, in bytes a second", '"200M"', rate)
    ] = None
    limit_upload: Annotated[
        Text | None, Key("how fast the store is written at most, in bytes a second", '"50M"', rate)
    ] = None
    scratch_dir: Annotated[
        Text | None, Key("the folder for what guests overwrite during a pull", '"/var/lib/libvirt/images"')
    ] = None
    staging_dir: Annotated[
        Text | None, Key("the folder for the images of a push", '"/var/lib/libvirt/images"')
    ] = None
    parallel: Annotated[
        Annotated[int, msgspec.Meta(ge=1, le=64)] | None,
        Key("how many domains are backed up at once, from 1 to 64", "2"),
    ] = None
    tags: Annotated[
        dict[Text, str] | None, Key("kept in every point: texts by name", '{ site = "north" }')
    ] = None
    hosts: Annotated[
        Texts | None,
        Key(
            "the hosts whose points of the job are pruned and checked, names or patterns; else this one",
            '["kvm1", "kvm2"]',
        ),
    ] = None
    across_hosts: Annotated[
        bool | None,
        Key("whether the points of a domain are judged together, whichever of the hosts took them", "true"),
    ] = None
    then: Annotated[
        list[Literal["prune", "check"]] | None,
        Key('what "puller run" does after the backups: "prune", "check" or both', '["prune", "check"]'),
    ] = None
    grace: Annotated[
        Text | None,
        Key("a duration: how long what nothing needs waits before prune removes it", '"1d"', duration),
    ] = None
    check: Annotated[
        Annotated[float, msgspec.Meta(ge=0, le=100)] | None,
        Key("the percentage of the stored chunks that a check reads, from 0 to 100", "1.0"),
    ] = None
    metrics_file: Annotated[
        Text | None,
        Key("the file for Prometheus, absolute", '"/var/lib/prometheus/node-exporter/puller.prom"'),
    ] = None
    keep: Annotated[Keep | None, Key("a table of the rules by which prune keeps points", "")] = None
    before: Annotated[Command | None, Key("a table: the command before the backups", "")] = None
    after: Annotated[Command | None, Key("a table: the command after them, also after a failure", "")] = None


class Defaults(Shared):
    """``[defaults]``: what holds unless a job, the environment or an option says something else."""

    progress: Annotated[
        Literal["auto", "lines", "json"] | None, Key("how progress is told: auto, lines or json", '"auto"')
    ] = None
    verbosity: Annotated[
        Literal["quiet", "normal", "verbose"] | None,
        Key("how much is told: quiet, normal or verbose", '"normal"'),
    ] = None


class JobTable(Shared, kw_only=True):
    """``[jobs.NAME]``."""

    domains: Annotated[Texts, Key("the domains: names, UUIDs or patterns with * and ?", '["web*", "db1"]')]
    exclude: Annotated[Texts | None, Key("names or patterns of domains to leave out", '["*-test"]')] = None


class Document(Table):
    """The whole file; each table is checked by itself."""

    repositories: Annotated[dict[Name, Any], Key("a table of repositories by name", "")] = {}
    defaults: Annotated[dict[str, Any], Key("a table of what holds for all jobs", "")] = {}
    jobs: Annotated[dict[Name, Any], Key("a table of jobs by name", "")] = {}


def keys(table: type[Table]) -> dict[str, tuple[Any, Key]]:
    """The type and the description of each key of ``table``, by its name in the file."""
    hints = get_type_hints(table, include_extras=True)
    found = {}
    for field in msgspec.structs.fields(table):
        kind = hints[field.name]
        found[field.encode_name] = (kind, get_args(kind)[-1])
    return found
