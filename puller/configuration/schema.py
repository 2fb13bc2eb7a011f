"""The keys of the configuration: type and purpose of each, in one place.

The checks, the advice for each mistake and the example are all derived from this. msgspec checks a key's
type; a reader, if there is one, then parses the text, and raises ValueError.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_type_hints

import msgspec

from puller.configuration.channels import address, addresses, mail_server, web_url
from puller.configuration.drills import evidences
from puller.configuration.quantities import (
    budget,
    duration,
    duration_or_size,
    interval,
    pace,
    ports,
    rate,
    run_memory,
    size,
)
from puller.store.options import MOST_CONNECTIONS, storage_class


@dataclass(frozen=True, slots=True)
class Key:
    """Meaning of a key, in words that follow "Set it to"; an example in TOML; the reader of its text."""

    meaning: str
    example: str
    read: Callable[[Any], Any] | None = None


Text = Annotated[str, msgspec.Meta(min_length=1, pattern="^[^\\x00-\\x1f]*\\Z")]
Name = Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}\\Z")]
Count = Annotated[int, msgspec.Meta(ge=1)]
Texts = Annotated[list[Text], msgspec.Meta(min_length=1)]

_COUNT = "a number N of {0}, 1 or more: keep the newest point of each of the N newest {0} with points"


class Table(msgspec.Struct, rename="kebab", forbid_unknown_fields=True):
    """Base of all tables: keys have hyphens, and unknown keys are refused."""


class Command(Table):
    """``[jobs.NAME.before]``, ``.after``, ``.guest-before`` and ``.guest-after``."""

    command: Annotated[
        Texts, Key("a list of the program and its arguments, run without a shell", '["/bin/true"]')
    ]
    timeout: Annotated[
        Count, Key("the seconds after which the command is killed and counts as failed (default 600)", "600")
    ] = 600


class Notify(Table):
    """``[jobs.NAME.notify]``: whom to notify when a run ends."""

    when: Annotated[
        Literal["change", "failure", "always"],
        Key(
            'when to notify: "change" (of the state; the default), "failure" (each one) or "always"',
            '"failure"',
        ),
    ] = "change"
    mail: Annotated[
        Texts | None, Key("a list of the mail addresses to notify", '["ops@example.org"]', addresses)
    ] = None
    sender: Annotated[
        Text | None,
        Key("the address that the mails are from (default USER@HOST)", '"puller@example.org"', address),
    ] = None
    smtp: Annotated[
        Text | None,
        Key(
            "the mail server, as smtp://[USER@]HOST[:PORT] or smtps://... (default: the program sendmail)",
            '"smtps://puller@mail.example.org"',
            mail_server,
        ),
    ] = None
    smtp_password_file: Annotated[
        Text | None,
        Key(
            "the absolute path of a file with the password for the mail server", '"/etc/puller/smtp-password"'
        ),
    ] = None
    webhook: Annotated[
        Text | None,
        Key("the URL to post JSON to", '"https://chat.example.org/hooks/abc"', web_url),
    ] = None
    webhook_style: Annotated[
        Literal["json", "slack", "discord", "teams"],
        Key(
            'the form of that JSON: "json" (the default), "slack" (also Mattermost), "discord" or "teams"',
            '"slack"',
        ),
    ] = "json"
    ping: Annotated[
        Text | None,
        Key(
            "the URL of a service that expects a ping for each start and end, such as healthchecks",
            '"https://hc.example.org/ping/UUID"',
            web_url,
        ),
    ] = None


class Keep(Table):
    """``[jobs.NAME.keep]``: the job's points that a prune keeps."""

    last: Annotated[Count | None, Key("a number N, 1 or more: keep the N newest points", "3")] = None
    hourly: Annotated[Count | None, Key(_COUNT.format("hours"), "24")] = None
    daily: Annotated[Count | None, Key(_COUNT.format("days"), "7")] = None
    weekly: Annotated[Count | None, Key(_COUNT.format("weeks"), "4")] = None
    monthly: Annotated[Count | None, Key(_COUNT.format("months"), "6")] = None
    yearly: Annotated[Count | None, Key(_COUNT.format("years"), "1")] = None
    within: Annotated[
        Text | None,
        Key("a duration: keep all points no older than this, counted from the newest", '"36h"', duration),
    ] = None


class RepositoryTable(Table):
    """``[repositories.NAME]``."""

    url: Annotated[
        Text, Key("the repository's location: s3://bucket/prefix, or a directory", '"s3://backups/kvm"')
    ]
    key_file: Annotated[
        Text | None, Key("the absolute path of the key file that opens it", '"/etc/puller/main.key"')
    ] = None
    password_file: Annotated[
        Text | None, Key("the absolute path of a file that holds its password", '"/etc/puller/password"')
    ] = None
    index_budget: Annotated[
        Text | None,
        Key(
            "a text with the largest size of the index on this host, at least 1M (default 256M)",
            '"1G"',
            budget,
        ),
    ] = None
    storage_class: Annotated[
        Text | None,
        Key(
            "the storage class of packs, which hold the guests' data (default: the bucket's; not an archive)",
            '"STANDARD_IA"',
            storage_class,
        ),
    ] = None
    sse: Annotated[
        Literal["AES256", "aws:kms"] | None,
        Key(
            'how the server encrypts all objects: "AES256" or "aws:kms" (default: the bucket\'s)',
            '"aws:kms"',
        ),
    ] = None
    kms_key: Annotated[
        Text | None,
        Key(
            'the id, ARN or alias of the key for sse = "aws:kms" (default: the account\'s own key)',
            '"alias/backups"',
        ),
    ] = None
    request_payer: Annotated[
        Literal["requester"] | None,
        Key('"requester" to pay for the requests to a bucket of another account', '"requester"'),
    ] = None
    addressing: Annotated[
        Literal["auto", "path", "virtual"] | None,
        Key(
            'where the bucket\'s name goes: "path" (endpoint/bucket), "virtual" (bucket.endpoint) or '
            '"auto" (default: the AWS profile\'s)',
            '"path"',
        ),
    ] = None
    ca_bundle: Annotated[
        Text | None,
        Key(
            "the absolute path of a PEM file with CA certificates for the server (default: the system's)",
            '"/etc/puller/s3-ca.pem"',
        ),
    ] = None
    credentials_file: Annotated[
        Text | None,
        Key(
            "the absolute path of a file like ~/.aws/credentials, with the access key of this repository "
            "and, if its server is not AWS's, endpoint_url (default: AWS's own files and variables)",
            '"/etc/credstore/puller-aws-credentials"',
        ),
    ] = None
    connections: Annotated[
        Annotated[int, msgspec.Meta(ge=1, le=MOST_CONNECTIONS)] | None,
        Key("the number of uploads, and of ranged reads, at once, from 1 to 64 (default: adapts)", "8"),
    ] = None


class ProveTable(Table):
    """``[prove]``: how restore drills are held on this host."""

    evidence: Annotated[
        dict[Text, Text] | None,
        Key(
            'a table of evidence by domain (a name, a pattern or a UUID): "agent", "console:TEXT", '
            '"tcp:PORT" or "command:PROGRAM" (default: the first that the guest offers)',
            '{ "web*" = "tcp:443" }',
            evidences,
        ),
    ] = None
    timeout: Annotated[
        Text | None,
        Key("a duration within which a guest has to give its evidence (default 5min)", '"10min"', duration),
    ] = None
    memory: Annotated[
        Text | None,
        Key("the most memory of a drill's machine, as a size (default: that of the domain)", '"2G"', budget),
    ] = None
    parallel: Annotated[
        Annotated[int, msgspec.Meta(ge=1, le=64)] | None,
        Key("the number of drills at once, from 1 to 64 (default 1)", "1"),
    ] = None
    directory: Annotated[
        Text | None,
        Key(
            "the directory for what the machines of drills write (default /var/lib/puller/drills)",
            '"/var/lib/puller/drills"',
        ),
    ] = None
    emulate: Annotated[
        bool | None,
        Key("true to emulate the processor where this host cannot run the machine (default false)", "true"),
    ] = None


class AlarmTable(Table):
    """``[alarms]``: thresholds above which a new point looks wrong, compared with the machine's earlier
    ones."""

    change: Annotated[
        Annotated[float, msgspec.Meta(gt=1)] | None,
        Key("how many times more must have changed than in any of the last 30 points (default 3)", "5"),
    ] = None
    share: Annotated[
        Annotated[float, msgspec.Meta(ge=0, le=100)] | None,
        Key("the percentage of the disks that must have changed, at least (default 20)", "10"),
    ] = None
    compression: Annotated[
        Annotated[float, msgspec.Meta(gt=0, le=100)] | None,
        Key("the percentage of new data that compression must have left, at least (default 90)", "95"),
    ] = None


class Shared(Table):
    """Keys of a job. A job without one takes it from ``[defaults]``."""

    repository: Annotated[Text | None, Key("a name in [repositories], or a URL", '"main"')] = None
    connect: Annotated[
        Text | None, Key("the connection URI of libvirt (default qemu:///system)", '"qemu:///system"')
    ] = None
    disks: Annotated[
        Texts | None, Key("a list of targets: back up only these disks (default: all)", '["vda"]')
    ] = None
    exclude_disks: Annotated[Texts | None, Key("a list of targets: leave out these disks", '["vdb"]')] = None
    mode: Annotated[
        Literal["pull", "push"] | None,
        Key('"pull" (puller reads the frozen disks; the default) or "push" (QEMU writes images)', '"pull"'),
    ] = None
    quiesce: Annotated[
        Literal["auto", "on", "off"] | None,
        Key(
            '"auto" (freeze the guest if its agent answers; the default), "on" (fail if not) or "off"',
            '"auto"',
        ),
    ] = None
    quiesce_timeout: Annotated[
        Text | None,
        Key(
            "a duration: the time that the guest agent may take to freeze, and to thaw (default 10s)",
            '"30s"',
            duration,
        ),
    ] = None
    quiesce_mountpoints: Annotated[
        Texts | None,
        Key("a list of mount points: freeze only these file systems of the guest (default: all)", '["/srv"]'),
    ] = None
    guest_before: Annotated[
        Command | None, Key("a table with the command that runs in the guest before it is frozen", "")
    ] = None
    guest_after: Annotated[
        Command | None, Key("a table with the command that runs in the guest once it is thawed", "")
    ] = None
    compression: Annotated[
        Literal["auto", "fast"] | Annotated[int, msgspec.Meta(ge=1, le=19)] | None,
        Key('the zstd level, from 1 to 19, "fast" or "auto" (default 1)', '"auto"'),
    ] = None
    compare_every: Annotated[
        Text | None,
        Key(
            "a duration: read and compare the whole disk if its last whole read is older (default: never)",
            '"30d"',
            duration,
        ),
    ] = None
    attach_limit: Annotated[
        Text | None,
        Key(
            "the size up to which media in a domain's drives are stored, in bytes (default 16M)",
            '"16M"',
            size,
        ),
    ] = None
    pace: Annotated[
        Text | None,
        Key(
            'how fast disks are read: "gentle" (so that guests keep their speed; the default), "full", or '
            "the highest rate, in bytes per second",
            '"200M"',
            pace,
        ),
    ] = None
    limit_upload: Annotated[
        Text | None, Key("the highest upload rate, in bytes per second (default: no limit)", '"50M"', rate)
    ] = None
    memory: Annotated[
        Text | None,
        Key(
            "the most memory that a backup of one domain uses, as a size, at least 256M (default 384M)",
            '"512M"',
            run_memory,
        ),
    ] = None
    scratch_dir: Annotated[
        Text | None,
        Key(
            "the directory for scratch images (default: the directory of the first image)",
            '"/var/lib/libvirt/images"',
        ),
    ] = None
    staging_dir: Annotated[
        Text | None,
        Key(
            "the directory for the images of a push (default: the scratch directory)",
            '"/var/lib/libvirt/images"',
        ),
    ] = None
    nbd_tls: Annotated[
        Text | None,
        Key(
            "the directory with the certificates by which disks of another host are read over TLS "
            "(default: through ssh)",
            '"/etc/puller/tls"',
        ),
    ] = None
    nbd_ports: Annotated[
        Text | None,
        Key('the TCP ports at which QEMU may listen then (default "10809-10872")', '"10809-10829"', ports),
    ] = None
    nbd_address: Annotated[
        Text | None,
        Key("the address at which QEMU listens then (default: that of connect)", '"192.0.2.21"'),
    ] = None
    parallel: Annotated[
        Annotated[int, msgspec.Meta(ge=1, le=64)] | None,
        Key("the number of domains to back up at once, from 1 to 64 (default 1)", "2"),
    ] = None
    tags: Annotated[
        dict[Text, str] | None, Key("a table of texts that are stored in every point", '{ site = "north" }')
    ] = None
    interval: Annotated[
        Text | None,
        Key(
            "a duration: how often the job runs; a machine without a new point for longer is late "
            "(default: estimated from its points)",
            '"1d"',
            interval,
        ),
    ] = None
    hosts: Annotated[
        Texts | None,
        Key(
            "a list of hosts, as names or patterns: prune and check their points (default: this host)",
            '["kvm1", "kvm2"]',
        ),
    ] = None
    across_hosts: Annotated[
        bool | None,
        Key("true to prune a domain's points from all these hosts as one series (default false)", "true"),
    ] = None
    then: Annotated[
        list[Literal["copy", "prune", "check", "prove", "report"]] | None,
        Key(
            'the steps after the backups: "copy", "prune", "check", "prove", "report" or several '
            "(default: none)",
            '["prune", "check"]',
        ),
    ] = None
    copy_to: Annotated[
        Text | None,
        Key(
            "a name in [repositories], or a URL: copy the job's points to this repository",
            '"s3://elsewhere/kvm"',
        ),
    ] = None
    prove: Annotated[
        Count | None,
        Key("the number of machines to prove in a run, the least recently proven first (default 1)", "2"),
    ] = None
    grace: Annotated[
        Text | None,
        Key("a duration: the grace time before unreferenced data is deleted (default 1d)", '"1d"', duration),
    ] = None
    check: Annotated[
        Annotated[float, msgspec.Meta(ge=0, le=100)] | None,
        Key("the percentage of the stored data that a check reads, from 0 to 100 (default 0)", "1.0"),
    ] = None
    check_max_age: Annotated[
        Text | None,
        Key(
            "a duration: a check reads what was not verified for so long (default: never)", '"30d"', duration
        ),
    ] = None
    check_budget: Annotated[
        Text | None,
        Key(
            "a duration or a size after which a check stops reading (default: none)", '"2h"', duration_or_size
        ),
    ] = None
    report: Annotated[
        Text | None,
        Key("the absolute path of the page about all machines, an HTML file", '"/srv/www/backups.html"'),
    ] = None
    metrics_file: Annotated[
        Text | None,
        Key(
            "the absolute path of the metrics file for Prometheus",
            '"/var/lib/prometheus/node-exporter/puller.prom"',
        ),
    ] = None
    keep: Annotated[Keep | None, Key("a table of the points that prune keeps", "")] = None
    notify: Annotated[
        Notify | None, Key("a table of the people and services to notify when a run ends", "")
    ] = None
    before: Annotated[Command | None, Key("a table with the command to run before the backups", "")] = None
    after: Annotated[
        Command | None, Key("a table with the command to run afterwards, also after a failure", "")
    ] = None


class Defaults(Shared):
    """``[defaults]``: what applies unless a job, the environment or an option sets it."""

    progress: Annotated[
        Literal["auto", "lines", "json"] | None,
        Key('the form of progress: "auto" (the default), "lines" or "json"', '"auto"'),
    ] = None
    verbosity: Annotated[
        Literal["quiet", "normal", "verbose"] | None,
        Key('the amount of output: "quiet", "normal" (the default) or "verbose"', '"normal"'),
    ] = None


class JobTable(Shared, kw_only=True):
    """``[jobs.NAME]``."""

    domains: Annotated[
        Texts, Key("a list of domains: names, UUIDs or patterns with * and ?", '["web*", "db1"]')
    ]
    exclude: Annotated[
        Texts | None, Key("a list of names or patterns: leave out these domains", '["*-test"]')
    ] = None


class Document(Table):
    """The whole file; each table is checked by itself."""

    repositories: Annotated[dict[Name, Any], Key("a table of repositories by name", "")] = {}
    defaults: Annotated[dict[str, Any], Key("a table of defaults for all jobs", "")] = {}
    alarms: Annotated[
        dict[str, Any], Key("a table of thresholds above which a new point looks wrong", "")
    ] = {}
    prove: Annotated[dict[str, Any], Key("a table of how restore drills are held", "")] = {}
    jobs: Annotated[dict[Name, Any], Key("a table of jobs by name", "")] = {}


def keys(table: type[Table]) -> dict[str, tuple[Any, Key]]:
    """Return type and description of each key of ``table``, by its name in the file."""
    hints = get_type_hints(table, include_extras=True)
    found = {}
    for field in msgspec.structs.fields(table):
        kind = hints[field.name]
        found[field.encode_name] = (kind, get_args(kind)[-1])
    return found
