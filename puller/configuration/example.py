"""An example of the configuration, generated from the descriptions of its keys."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from puller.configuration.schema import (
    AlarmTable,
    Command,
    Defaults,
    JobTable,
    Keep,
    Notify,
    ProveTable,
    RepositoryTable,
    Shared,
    Table,
    keys,
)

_HEAD = """\
# Configuration of puller. Check it with 'puller config check'.
# A command-line option overrides the environment, and the environment overrides this file.
# Lines such as "#key = value" show the keys that are not set."""


def example() -> str:
    """Return the text of a file that passes the check and shows every key."""
    parts = [
        (_HEAD,),
        ("[repositories.main]", *_lines(RepositoryTable, {"url", "password-file"})),
        ("# Defaults. Every command uses repository, connect, progress and verbosity;",),
        ("# only jobs use the other keys.",),
        ("[defaults]", *_lines(Defaults, {"repository"}, set(keys(Shared)) - {"repository", "connect"})),
        ("# Restore drills: 'puller prove', and jobs with \"prove\" in their 'then'.",),
        ("#[prove]", *_lines(ProveTable, ())),
        ("# When a new point looks wrong: see docs/report.md.",),
        ("#[alarms]", *_lines(AlarmTable, ())),
        ("# A job. Run it with 'puller run nightly'. All keys of a job except 'domains' and 'exclude'",),
        ("# may also be set in [defaults].",),
        ("[jobs.nightly]", *_lines(JobTable, {"domains", "then", "check"}, {"repository", "connect"})),
        ("# The points to keep. A prune considers only points that this job took of these domains,",),
        ("# on this host or the hosts that 'hosts' names.",),
        ("[jobs.nightly.keep]", *_lines(Keep, {"daily", "weekly", "monthly"})),
        ("# Whom to notify when a run ends.",),
        ("#[jobs.nightly.notify]", *_lines(Notify, ())),
        ("# The commands get PULLER_JOB in their environment; 'after' also gets PULLER_EXIT_CODE.",),
        ("#[jobs.nightly.before]", *_lines(Command, ())),
        ("#[jobs.nightly.after]", *_lines(Command, ())),
        ("# The guest agent runs these in each guest, before it is frozen and once it is thawed.",),
        ("#[jobs.nightly.guest-before]", *_lines(Command, ())),
        ("#[jobs.nightly.guest-after]", *_lines(Command, ())),
    ]
    return "".join(_block(lines) for lines in parts)


def _block(lines: Collection[str]) -> str:
    """Place comments right above their table."""
    gap = "\n" if len(lines) > 1 or lines == (_HEAD,) else ""
    return "\n".join(lines) + "\n" + gap


def _lines(table: type[Table], set_: Collection[str], left_out: Collection[str] = ()) -> Iterator[str]:
    shown = {name: key for name, (_, key) in keys(table).items() if key.example and name not in left_out}
    for name, key in sorted(shown.items(), key=lambda item: item[0] not in set_):
        yield f"# {key.meaning[:1].upper()}{key.meaning[1:]}"
        yield f"{name} = {key.example}" if name in set_ else f"#{name} = {key.example}"
